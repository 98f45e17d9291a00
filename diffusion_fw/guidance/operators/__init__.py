"""Measurements for inverse problems: a mask, a matrix, an average over blocks."""
