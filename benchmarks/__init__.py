"""Timings as ratios to a reference that is timed in the same run: `python -m benchmarks`."""
