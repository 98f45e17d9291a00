"""The registry: one decorator registers every component, and its signature is its config schema.

Standard library only, so that the name of a component can be looked up without importing Lightning or Hydra.
"""

from diffusion_fw.registry.components import (
    Entry,
    Parameter,
    build,
    entries,
    entry,
    names,
    nearest,
    register,
    sections,
    validate,
)
from diffusion_fw.registry.groups import FACTS, GROUPS, Group
from diffusion_fw.registry.messages import LONGEST_NAME, ConfigError, RegistrationError, printable
from diffusion_fw.registry.signature import (
    AutoDiameter,
    AutoStd,
    Fraction,
    Measured,
    NonNegative,
    NonNegativeInt,
    OpenFraction,
    Positive,
    PositiveInt,
    Range,
    Runtime,
    Seed,
    convert,
    describe,
    is_runtime,
)

__all__ = [
    "FACTS",
    "GROUPS",
    "LONGEST_NAME",
    "AutoDiameter",
    "AutoStd",
    "ConfigError",
    "Entry",
    "Fraction",
    "Group",
    "Measured",
    "NonNegative",
    "NonNegativeInt",
    "OpenFraction",
    "Parameter",
    "Positive",
    "PositiveInt",
    "Range",
    "RegistrationError",
    "Runtime",
    "Seed",
    "build",
    "convert",
    "describe",
    "entries",
    "entry",
    "is_runtime",
    "names",
    "nearest",
    "printable",
    "register",
    "sections",
    "validate",
]
