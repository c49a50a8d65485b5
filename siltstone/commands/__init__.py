"""The commands of `siltstone`, one noun a file: each adds its parser and runs. No command holds state of its own."""
