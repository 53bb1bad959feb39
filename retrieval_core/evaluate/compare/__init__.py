"""Compare representations: variants side by side, on the same queries of the same catalogue."""
