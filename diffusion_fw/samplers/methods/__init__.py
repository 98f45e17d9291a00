"""Numerical methods that samplers share; none of them is a choice of the config."""
