"""Networks: maps from (x, time label, cond) to F that know nothing of the process; their blocks are in blocks/."""
