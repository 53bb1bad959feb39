"""Storage behind one interface: a local folder or `s3://bucket/prefix`. Only this package touches either."""
