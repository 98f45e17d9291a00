"""Encoders of text: captions as sequences of embeddings."""
