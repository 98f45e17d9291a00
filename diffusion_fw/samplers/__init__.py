"""Samplers: from noise to data through any denoiser, on any grid of times."""
