"""What the gateway costs, beside a minimal relay and beside nothing at all: ``python -m benchmarks``."""
