"""Loggers, and builders.py, which registers them."""
