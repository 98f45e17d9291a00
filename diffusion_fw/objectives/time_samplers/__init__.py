"""The registered time samplers, one small file each."""
