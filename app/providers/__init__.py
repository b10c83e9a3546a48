"""Providers: adapters to model APIs."""
