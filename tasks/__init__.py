"""Delivery: retries, shards, progress; each task opens its inputs, calls the core and returns a Ref."""
