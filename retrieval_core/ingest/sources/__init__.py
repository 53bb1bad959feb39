"""Catalogue sources: one file or folder per layout, found by name in `registry`."""
