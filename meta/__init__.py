"""Metadata: what exists and where its bytes are."""
