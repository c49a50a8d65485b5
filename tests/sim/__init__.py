"""The simulated world: disks, clock, randomness and workers that run deterministically in one thread, from a seed."""
