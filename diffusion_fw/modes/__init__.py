"""What sample.py does with a model."""
