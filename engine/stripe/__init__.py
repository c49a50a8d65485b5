"""Erasure-coded stripes in slabs: codec, layout, allocation, write, read."""
