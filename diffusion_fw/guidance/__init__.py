"""Denoisers that wrap a denoiser: guidance, clipping, rescheduling, conditioning on measurements."""
