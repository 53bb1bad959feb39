"""Catalogue sources: one file a layout, found by name in `registry`."""
