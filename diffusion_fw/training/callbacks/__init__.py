"""The registered callbacks; each builder imports Lightning only when it is called, so that --help stays quick."""
