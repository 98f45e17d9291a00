"""One run: its record, its provenance, and how it is resumed."""
