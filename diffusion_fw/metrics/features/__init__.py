"""Feature extractors, on which distances between samples and data are measured."""
