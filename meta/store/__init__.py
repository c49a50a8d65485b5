"""The ordered key-value store under the namespace."""
