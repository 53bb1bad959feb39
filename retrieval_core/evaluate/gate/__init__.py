"""May we publish? A challenger against production on the same queries, and against its bounds."""
