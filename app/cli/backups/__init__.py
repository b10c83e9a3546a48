"""Backups: one archive with everything that is state, whichever database holds it."""
