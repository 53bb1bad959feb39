"""Pictures to masks of the product."""

VERSION = 1  # raise when the same input gives another output
