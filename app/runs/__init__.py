"""Runs: admitted, queued in lanes, executed in threads, streamed as events."""
