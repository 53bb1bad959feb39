"""Front doors: whatever a person, a clock or an event starts."""

import retrieval_core.errors  # noqa: F401 (importing any part of it first turns the telemetry of other libraries off)
