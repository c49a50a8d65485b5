"""The volume: the one way in for every front-end, and what needs both the engine and the metadata."""
