"""Run the trigger server."""

import sys

from deployments.triggers.server import main

sys.exit(main())
