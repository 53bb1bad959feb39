"""Datasets that hold many pictures in one file, each of which has an address of its own."""
