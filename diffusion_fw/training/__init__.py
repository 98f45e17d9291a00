"""Training: the LightningModule, EMA, the order of the data, callbacks, loggers."""
