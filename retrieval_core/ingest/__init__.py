"""A source's pictures and words to a catalogue snapshot."""

VERSION = 1  # raise when the same input gives another output
