"""`jsonl:FILE`: one JSON object a line, perhaps in gzip, whose keys are the columns of a table."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.feeds.feed import GZIP_ERRORS, open_text
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable, decode_text
from retrieval_core.ingest.sources.tables.objects import ObjectRows
from retrieval_core.ingest.sources.tables.table import TableSource, read_whole

MAX_EXPONENT = 400  # written out, a number has about as many digits


class JsonlSource(TableSource):
    """A manifest in JSON Lines: its keys are columns as in a table, also with `FILE?item_id=sku&image_uri=image`.

    Labels are a list or text as in a table, attributes an object or a list of name-value objects. A list of addresses
    as image_uri is that many pictures of one product.
    """

    kind = "jsonl"
    has_picture_lists = True

    def _parsed_file(self) -> DelimitedTable:
        try:
            with open_text(self._uri, self.spec) as stream:
                text, encoding = decode_text(read_whole(stream))
        except (*GZIP_ERRORS, ValueError) as error:
            raise CatalogInvalid(f"{self.spec} cannot be read: {error}; export it again") from error
        objects = ObjectRows(self._columns)
        for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
            if line.strip():
                try:
                    objects.add(_parse(line))
                except (ValueError, RecursionError) as error:
                    raise CatalogInvalid(f"{self.spec}, line {number}: {str(error)[:300]}") from error
        if not objects.n_rows:
            raise SourceMissing(f"{self.spec} is empty; expected at least one picture")
        self._columns = objects.columns()
        return DelimitedTable(objects.frame(), f"{counted(objects.n_rows, 'row')} of JSON in {encoding}")


def _parse(line: str) -> dict[str, Any]:
    try:
        value = json.loads(
            line.removeprefix("\ufeff"), parse_float=_number, parse_constant=_refuse, object_pairs_hook=_unrepeated
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON, or cut off: {error.msg}") from error
    if "\\ud" in line.casefold():  # may be half of a surrogate pair, which no column can hold
        json.dumps(value, ensure_ascii=False, default=str).encode()
    if not isinstance(value, dict):
        raise ValueError('expected a JSON object such as {"item_id": "1", "image_uri": "1.jpg"}')
    return value


def _number(text: str) -> Decimal:
    number = Decimal(text)
    if abs(number.adjusted()) > MAX_EXPONENT:
        raise ValueError(f"the number {text[:40]} is too large or too small")
    return number


def _refuse(constant: str) -> None:
    raise ValueError(f"not JSON: {constant}")


def _unrepeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"an object has one key twice: {', '.join(key for key, _ in pairs)}")
    return values
