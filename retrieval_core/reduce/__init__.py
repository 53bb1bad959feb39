"""Vectors to fewer dimensions."""
