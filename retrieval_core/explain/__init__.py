"""One item's story: what a release made of it, what is near to it, and what became of it from release to release."""
