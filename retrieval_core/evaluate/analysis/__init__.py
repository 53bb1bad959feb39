"""What the measured figures mean: where quality is lost, what changed, what to repair in the catalogue."""
