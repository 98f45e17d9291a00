"""The registry: one decorator registers every component, and its signature is its config schema.

Standard library only, so that the name of a component can be looked up without importing Lightning or Hydra.
"""

from diffusion_fw.registry.components import (
    GROUPS,
    LONGEST_NAME,
    ConfigError,
    Entry,
    Parameter,
    RegistrationError,
    build,
    entries,
    entry,
    names,
    nearest,
    register,
    validate,
)
from diffusion_fw.registry.signature import (
    Fraction,
    NonNegative,
    NonNegativeInt,
    OpenFraction,
    Positive,
    PositiveInt,
    Range,
    Runtime,
    convert,
    describe,
    is_runtime,
)

__all__ = [
    "GROUPS",
    "LONGEST_NAME",
    "ConfigError",
    "Entry",
    "Fraction",
    "NonNegative",
    "NonNegativeInt",
    "OpenFraction",
    "Parameter",
    "Positive",
    "PositiveInt",
    "Range",
    "RegistrationError",
    "Runtime",
    "build",
    "convert",
    "describe",
    "entries",
    "entry",
    "is_runtime",
    "names",
    "nearest",
    "register",
    "validate",
]
