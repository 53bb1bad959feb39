"""Print what catalogues of these sizes take: their runs, and searching them.

    python -m retrieval_core.maintenance.capacity --pictures 1000000 10000000 --machines 1 16 --shard-rows 8192

Money is computed from your prices: --machine-hour, --gb-month and --thousand-requests, in any currency.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from retrieval_core.errors import BadConfig
from retrieval_core.maintenance.capacity.runs import MEASURED, Prices, estimate, runs_table
from retrieval_core.maintenance.capacity.searching import estimate_searching, searching_table


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables for the measured costs; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval_core.maintenance.capacity", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--pictures", type=int, nargs="+", required=True, metavar="N")
    parser.add_argument("--machines", type=int, nargs="+", default=[1], metavar="N", help="like the measured one")
    parser.add_argument("--shard-rows", type=int, default=MEASURED.shard_rows, metavar="N", help="pictures in a shard")
    for name, field in Prices.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=field.default, metavar="PRICE")
    parser.add_argument("--memory-gb", type=float, default=16.0, help="of a machine that searches")
    parser.add_argument(
        "--releases", type=int, default=2, metavar="N", help="held at once; 2 while one replaces another"
    )
    parser.add_argument("--queries", type=float, default=10.0, metavar="N", help="by picture, in a second")
    arguments = parser.parse_args(argv)
    costs = MEASURED.model_copy(update={"shard_rows": max(1, arguments.shard_rows)})
    try:
        prices = Prices(**{name: getattr(arguments, name) for name in Prices.model_fields})
        runs = [estimate(costs, n, w) for n in arguments.pictures for w in arguments.machines]
        searching = [
            estimate_searching(n, arguments.memory_gb, arguments.releases, arguments.queries)
            for n in arguments.pictures
        ]
    except (BadConfig, ValueError) as error:
        print(f"vitrine: {error}", file=sys.stderr)
        return BadConfig.exit_code
    print(runs_table(costs, runs, prices), searching_table(searching), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
