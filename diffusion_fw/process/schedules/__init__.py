"""The registered schedules, one small file each."""
