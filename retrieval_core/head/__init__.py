"""Vectors and attributes to boosted vectors."""

VERSION = 2  # raise when the same input gives another output
