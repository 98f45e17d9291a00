"""Metrics of samples against held-out data, on named features."""
