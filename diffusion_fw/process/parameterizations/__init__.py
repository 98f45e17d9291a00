"""The registered parameterizations, one small file each."""
