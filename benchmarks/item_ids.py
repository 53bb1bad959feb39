"""Seconds to normalise the ids of a catalogue, and to find those nearest to an unknown one.

python -m benchmarks.item_ids [--rows 1000000]
"""

from __future__ import annotations

import argparse
import time

import polars as pl

from retrieval_core.item_ids.normal_form import normal_names
from retrieval_core.item_ids.suggestions import did_you_mean

# For each kind of id, how it is written, and ids of three kinds that do not exist: another case and punctuation, one
# wrong letter, nothing like it.
KINDS = {
    "numbers": ("sku-{:07d}", ("SKU_0123456", "sku-012x456", "zebra crossing")),
    "paths": ("Été/Größe {:07d}é.jpg", ("été größe 0123456É.JPG", "Ete/Größe 0123456é.jpg", "zebra crossing")),
    "paths of macOS": ("E\u0301te\u0301/Gro\u0308ße {:07d}.jpg", ()),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.item_ids", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    for kind, (pattern, unknown) in KINDS.items():
        ids = pl.Series([pattern.format(row) for row in range(rows)])
        started = time.perf_counter()
        ids = normal_names(ids)
        print(f"{kind:<16} {time.perf_counter() - started:6.2f} s to normalise {rows:,} ids")
        for item_id in unknown:
            started = time.perf_counter()
            answer = did_you_mean(item_id, ids)
            print(f"{kind:<16} {time.perf_counter() - started:6.2f} s for {item_id!r}{answer}")


if __name__ == "__main__":
    main()
