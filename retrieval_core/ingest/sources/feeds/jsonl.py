"""`jsonl:FILE`: one JSON object a line, perhaps in gzip, whose keys are the columns of a table."""

from __future__ import annotations

import io

from retrieval_core.errors import CatalogInvalid, SourceMissing
from retrieval_core.ingest.sources.feeds.feed import GZIP_ERRORS, open_text
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable, decode_text
from retrieval_core.ingest.sources.tables.objects import ObjectRows, parse_object
from retrieval_core.ingest.sources.tables.table import TableSource, read_whole


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
                    objects.add(parse_object(line))
                except (ValueError, RecursionError) as error:
                    raise CatalogInvalid(f"{self.spec}, line {number}: {str(error)[:300]}") from error
        if not objects.n_rows:
            raise SourceMissing(f"{self.spec} is empty; expected at least one picture")
        self._columns = objects.columns()
        return DelimitedTable(objects.frame(), f"{counted(objects.n_rows, 'row')} of JSON in {encoding}")
