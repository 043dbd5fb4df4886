"""Load, benchmarks and replays: everything that measures Tact from outside."""
