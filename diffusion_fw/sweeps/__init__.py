"""Many runs: the grid of `sweep=basic`, the search of `sweep=optuna`, and jobs on a cluster."""
