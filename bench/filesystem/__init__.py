"""What bench/fs.py measures, and the filesystems that it measures it on."""
