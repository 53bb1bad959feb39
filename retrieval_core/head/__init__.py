"""Vectors and attributes to boosted vectors."""

VERSION = 1  # raise when the same input gives another output
