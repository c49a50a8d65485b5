"""The mount: pyfuse3 operations translated to calls of the core, and back."""
