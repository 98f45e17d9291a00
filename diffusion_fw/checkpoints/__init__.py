"""Checkpoints: reading them safely, choosing their weights, starting from them."""
