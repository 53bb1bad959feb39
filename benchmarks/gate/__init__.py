"""How the gate judges releases whose quality is known."""
