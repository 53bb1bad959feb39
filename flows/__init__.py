"""Order: which stage runs after which."""
