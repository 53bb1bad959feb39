"""Front doors: whatever a person, a clock or an event starts."""

import retrieval_core  # noqa: F401 (turns off the telemetry of libraries that later modules import)
