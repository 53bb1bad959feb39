"""How good a search is: every variant and the published index on the same held-out queries."""
