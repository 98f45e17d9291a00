"""The composition root: the one place where components meet and their fit is checked."""
