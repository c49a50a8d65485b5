"""The commands of `siltstone`, one a file: each has ``add_parser`` and ``run``. No command holds state of its own."""
