"""The search service under load."""
