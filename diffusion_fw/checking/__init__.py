"""Conformance: the laws that every component of a group must keep, measured against closed forms."""

from diffusion_fw.checking.conformance import check, examine, test
from diffusion_fw.checking.findings import CheckFailed, Report, Row

__all__ = ["CheckFailed", "Report", "Row", "check", "examine", "test"]
