"""Drawing many samples in chunks, and how much memory a chunk takes."""
