"""Peak memory of reading drawn products from feeds, a database and a tar, each in a process of its own.

    python -m benchmarks.memory.feeds [--products 100000] [--limit-mb 500]

A product of the Merchant Center feeds, in XML and TSV, has three pictures and a description of 480 characters; one of
the SQLite database, one picture and that description; one of the WebDataset tar, one picture and a JSON file. Exits
with 1 where reading takes more than the limit of memory that no file backs.
"""

from __future__ import annotations

import argparse
import io
import json
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measuring.process_usage import run_measured

DESCRIPTION = "Says what the product is made of and for whom, at some length. " * 8
CELLS = {
    "id": "sku-{0}",
    "title": "Product {0}",
    "description": DESCRIPTION[:480],
    "image_link": "s3://shop-pictures/catalogue/{0}/front.jpg",
    "additional_image_link": "s3://shop-pictures/catalogue/{0}/back.jpg,s3://shop-pictures/catalogue/{0}/side.jpg",
    "item_group_id": "p{1}",
    "product_type": "Apparel &gt; Clothing &gt; Kind {1}",
    "brand": "Brand {1}",
    "color": "red",
    "gender": "female",
    "price": "19.00 EUR",
}
READ = "import sys; from retrieval_core.ingest.sources.registry import open_source; open_source(sys.argv[1])"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory.feeds", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--limit-mb", type=float, default=500, metavar="MB")
    arguments = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory(prefix="vitrine-feeds-") as folder:
        for name, (source, write) in SOURCES.items():
            path = Path(folder) / name
            write(path, arguments.products)
            usage = run_measured([sys.executable, "-c", READ, source.format(path)])
            peaks.append(usage.peak_own_mb)
            print(
                f"{name} of {path.stat().st_size / 1e6:.0f} MB: "
                f"own {usage.peak_own_mb:.0f} MB, all {usage.peak_mb:.0f} MB, "
                f"{usage.wall_s:.1f} s"
            )
    return int(max(peaks) > arguments.limit_mb)


def _write_xml(path: Path, n_products: int) -> None:
    with path.open("w") as file:
        file.writelines(_xml(n_products))


def _write_tsv(path: Path, n_products: int) -> None:
    with path.open("w") as file:
        file.writelines(_tsv(n_products))


def _write_database(path: Path, n_products: int) -> None:
    path.with_name(f"{path.name}.sql").write_text("SELECT * FROM items")
    database = sqlite3.connect(path)
    with database:
        database.execute("CREATE TABLE items (item_id, image_uri, category, title, description)")
        rows = ((n, f"s3://shop/{n}.jpg", f"Kind {n // 3}", f"Product {n}", DESCRIPTION) for n in range(n_products))
        database.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)
    database.close()


def _write_tar(path: Path, n_products: int) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(n_products):
            text = json.dumps({"category": f"Kind {number // 3}", "title": f"Product {number}"}).encode()
            for name, data in ((f"{number:09}.jpg", b"1" * 1000), (f"{number:09}.json", text)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _xml(n_products: int) -> Iterator[str]:
    elements = [
        f"<g:{name}>{part}</g:{name}>"
        for name, cell in CELLS.items()
        for part in (cell.split(",") if "link" in name else [cell])
    ]
    item = "<item>" + "".join(elements) + "</item>\n"
    yield '<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel>\n'
    yield from (item.format(number, number // 3) for number in range(n_products))
    yield "</channel></rss>\n"


def _tsv(n_products: int) -> Iterator[str]:
    yield "\t".join(CELLS) + "\n"
    row = "\t".join(CELLS.values()).replace("&gt;", ">") + "\n"
    yield from (row.format(number, number // 3) for number in range(n_products))


# The source of each file, and what writes it.
SOURCES: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "feed.xml": ("merchant:{}", _write_xml),
    "feed.tsv": ("merchant:{}", _write_tsv),
    "items.db": ("sql:{0}.sql?database=sqlite:///{0}", _write_database),
    "items.tar": ("webdataset:{}", _write_tar),
}

if __name__ == "__main__":
    raise SystemExit(main())
