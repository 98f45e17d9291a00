"""Machinery that samplers share; nothing here is a choice of a config."""
