"""Calls of a shop and notifications of S3, kept until each has started an update of the catalogue."""
