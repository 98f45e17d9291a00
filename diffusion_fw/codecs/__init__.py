"""Codecs: between examples and the latents in which a model works."""
