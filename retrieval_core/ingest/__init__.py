"""Read a catalogue source, and describe its items in a snapshot."""
