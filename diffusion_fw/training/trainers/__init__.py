"""The registered trainers: how Lightning runs the loop."""
