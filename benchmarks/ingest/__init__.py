"""Benchmarks of reading a catalogue."""
