"""One run: its record, what produced it, and resuming it."""
