"""Siltstone: a tiered storage engine with adaptive metadata."""

__version__ = "0.1.0"
