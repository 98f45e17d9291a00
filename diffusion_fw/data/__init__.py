"""Data sets: shipped with the package, read from standard files, or generated."""
