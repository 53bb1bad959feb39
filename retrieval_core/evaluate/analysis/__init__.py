"""Analyses of a measured run: where quality is lost, what changed, and what to repair in the catalogue."""
