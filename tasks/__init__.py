"""Delivery: retries, shards, progress; each task opens its inputs, calls the core and returns a Ref."""

import retrieval_core.errors  # noqa: F401 (importing any part of it first turns the telemetry of other libraries off)
