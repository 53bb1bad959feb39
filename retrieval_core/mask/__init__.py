"""Pictures to masks of the product."""
