"""Storage: a folder or `s3://bucket/prefix` behind one object; nothing else touches either."""
