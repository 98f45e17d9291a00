"""The registered learning-rate schedules: a factor on the optimizer's rate at each step."""
