"""The replicated write-ahead log."""
