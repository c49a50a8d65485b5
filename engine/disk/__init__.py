"""The real implementations of the disk ports; the only modules that open files of the pool."""
