"""The registered schedules: tables, and continuous ones."""
