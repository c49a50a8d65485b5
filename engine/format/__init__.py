"""Bytes on disk to values and back. Pure: no I/O, one module for each format."""
