"""Order: which stage runs after which."""

import retrieval_core  # noqa: F401 (turns off the telemetry of libraries that later modules import)
