"""The forward process x_t = alpha(t) x_0 + sigma(t) eps: schedules, parameterizations, transitions."""
