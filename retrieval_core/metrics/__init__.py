"""Relevance, ranking metrics, exact neighbours, significance and picture similarity, on plain arrays."""
