"""What a catalogue takes: hours, memory, storage, requests and money, of its runs and of searching it."""
