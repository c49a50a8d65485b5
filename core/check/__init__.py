"""What fsck checks, by what it is about; core/fsck.py runs it over all shards."""
