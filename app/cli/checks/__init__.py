"""What ``openclaw doctor`` looks at: small functions that give findings."""

from .finding import Check, Finding, Site
from .listing import CHECKS

__all__ = ["CHECKS", "Check", "Finding", "Site"]
