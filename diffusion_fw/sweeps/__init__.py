"""Many runs: the grid of `sweep=basic`, the search of `sweep=optuna`, jobs on a cluster."""
