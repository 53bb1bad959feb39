"""Vectors to fewer dimensions."""

VERSION = 1  # raise when the same input gives another output
