"""What benches measure on: the product on disks of this machine."""
