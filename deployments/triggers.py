"""From outside to the event `catalog.updated`: S3 notifications and plain HTTP calls, merged where they come in bursts.

    python -m deployments.triggers --port 8700
    curl -H "Authorization: Bearer $VITRINE_TRIGGER_TOKEN" -d '{"added": ["sku-1"]}' http://127.0.0.1:8700/catalog

Whoever calls is answered when Prefect has the event, so that one who is told of a failure can call again.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from deployments.cli.terminal import visible
from retrieval_core.errors import VitrineError


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.triggers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8700, help="the port to listen on")
    parser.add_argument(
        "--window", type=float, default=2.0, metavar="SECONDS", help="what comes within it is one event"
    )
    parser.add_argument("--sqs", metavar="QUEUE_URL", help="a queue of S3 notifications to read, too")
    arguments = parser.parse_args(argv)
    import uvicorn

    from deployments.trigger_queue import Queue
    from deployments.trigger_server import check_prefect, make_app

    logging.basicConfig(level=logging.WARNING, format="vitrine: %(message)s")
    logging.getLogger("vitrine").setLevel(logging.INFO)
    try:
        check_prefect()
        queue = Queue(arguments.sqs) if arguments.sqs else None
        app = make_app(os.environ.get("VITRINE_TRIGGER_TOKEN", ""), window_s=arguments.window, queue=queue)
    except VitrineError as error:
        print(f"vitrine: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning")
    return 0


if __name__ == "__main__":
    sys.exit(main())
