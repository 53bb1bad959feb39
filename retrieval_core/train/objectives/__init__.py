"""One file an objective; `registry` finds them by name."""
