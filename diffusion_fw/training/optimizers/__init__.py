"""The registered optimizers."""
