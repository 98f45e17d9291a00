"""The registered variances of the reverse step."""
