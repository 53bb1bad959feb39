"""Peak memory of each stage of a run."""
