"""Blocks that networks share; nothing here is a choice of a config."""
