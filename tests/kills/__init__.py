"""Killing a real volume under writing clients: what they were promised, who they are, and the rounds (make kills)."""
