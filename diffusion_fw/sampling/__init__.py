"""Many samples in chunks, and the memory of a chunk."""
