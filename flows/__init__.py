"""Order: which stage runs after which."""

import retrieval_core.errors  # noqa: F401 (importing any part of it first turns the telemetry of other libraries off)
