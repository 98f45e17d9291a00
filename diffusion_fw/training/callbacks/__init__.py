"""Callbacks, and builders.py, which registers them."""
