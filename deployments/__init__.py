"""Front doors: whatever a person, a clock or an event starts."""
