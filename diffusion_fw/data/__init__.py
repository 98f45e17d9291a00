"""Data sets: embedded, read from standard files, or generated."""
