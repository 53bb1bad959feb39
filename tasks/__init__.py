"""Delivery: retries, shards, progress; each task opens its inputs, calls the core and returns a Ref."""

import retrieval_core  # noqa: F401 (turns off the telemetry of libraries that later modules import)
