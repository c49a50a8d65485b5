"""The parts of bench/meta.py, one question a file."""
