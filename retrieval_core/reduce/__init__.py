"""Reduce vectors to fewer dimensions."""
