"""Training: the LightningModule, moving averages, the order of the examples, callbacks, loggers."""
