"""A source's pictures and words to a catalogue snapshot."""
