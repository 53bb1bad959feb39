"""Vectors and attributes to boosted vectors."""
