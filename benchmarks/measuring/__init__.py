"""Timing in turn, commands in processes of their own, and what a process used."""
