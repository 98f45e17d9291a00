"""The programs: train, sample, evaluate."""
