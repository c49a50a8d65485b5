"""What others would do with the same work, simulated."""
