"""Vectors to sharded FAISS files, and back to hits."""

VERSION = 2  # raise when the same input gives another output
