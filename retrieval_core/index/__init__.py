"""Vectors to sharded FAISS files, and back to hits."""
