"""The registered weightings, one small file each."""
