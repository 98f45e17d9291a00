"""Readers of files; nothing here is a choice of a config."""
