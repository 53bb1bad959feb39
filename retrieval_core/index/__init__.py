"""Build, update, tune and search an index of FAISS shards."""
