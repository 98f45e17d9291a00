"""The registered grids, one small file each."""
