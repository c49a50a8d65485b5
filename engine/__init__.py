"""The data engine: disks, the replicated log, Reed-Solomon stripes. Knows bytes, LSNs and stripes, nothing of files."""
