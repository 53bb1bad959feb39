"""Pictures and texts to vectors."""

VERSION = 1  # raise when the same input gives another output
