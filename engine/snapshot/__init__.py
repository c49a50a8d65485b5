"""Snapshots of the metadata on the disks of a pool: files, copies, checks. What is in them is not known here."""
