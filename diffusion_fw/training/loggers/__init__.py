"""The registered loggers; each builder imports its library only when it is called."""
