"""Building blocks that networks share; no choices of the config."""
