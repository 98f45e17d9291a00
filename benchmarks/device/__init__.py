"""Everything about one GPU in a few minutes, stage by stage: `python -m benchmarks.device`."""
