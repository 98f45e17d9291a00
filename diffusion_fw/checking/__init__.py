"""Conformance: what every component of a group promises, measured against closed forms."""

from diffusion_fw.checking.conformance import check, examine, test
from diffusion_fw.checking.findings import CheckFailed, Report, Row

__all__ = ["CheckFailed", "Report", "Row", "check", "examine", "test"]
