"""Outputs of the original authors' networks, recorded as facts for tests/interop.

    python -m scripts.peer_outputs FAMILY CLONE     e.g. guided_diffusion path/to/a/clone/of/openai/guided-diffusion

Each family's module imports the original code from a clone, fills its networks with ``seeded`` weights, and yields
records; they are written to tests/interop/published/FAMILY.json. No code and no trained weights are copied.
"""
