"""Benchmarks: `python -m bench [name…]`, or `make bench`. Each prints tables, with its yardstick from the same run."""
