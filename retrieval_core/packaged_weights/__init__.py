"""Weights that come as Python packages, for every stage that starts from them."""
