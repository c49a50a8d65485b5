"""The S3 door: HTTP requests translated to calls of the core, and back."""
