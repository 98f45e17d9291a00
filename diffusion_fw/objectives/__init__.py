"""Objectives, their weightings and how they draw times."""
