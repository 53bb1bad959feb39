"""The configuration of a run: what each stage makes, and how a person writes it."""
