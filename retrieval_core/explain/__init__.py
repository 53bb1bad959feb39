"""One item explained: what the store holds of it, where a search finds it, and how it changed between releases."""
