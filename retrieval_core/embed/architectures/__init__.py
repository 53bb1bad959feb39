"""The networks that no library builds; importing one imports torch."""
