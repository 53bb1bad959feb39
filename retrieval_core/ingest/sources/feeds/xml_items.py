"""Read the items of an RSS or Atom feed one after another, in memory that does not grow with the feed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from xml.parsers import expat

from retrieval_core.ingest.sources.feeds.feed import Stream, column_key

CHUNK_BYTES = 2**18
MAX_CHARACTERS = 2**20  # of one value
ROOTS = ("rss", "feed", "RDF")
ITEMS = ("item", "entry")
MERCHANT = "base.google.com"  # in the namespaces of Merchant Center's elements


class XmlItem(NamedTuple):
    """An item of a feed: the line on which it starts, and the texts of its elements by `column_key`."""

    line: int
    values: dict[str, list[str]]


class XmlItems:
    """The items of a feed in XML, read as they are iterated over; `names` are the elements seen so far."""

    def __init__(self, stream: Stream) -> None:
        self.names: dict[str, str] = {}
        self._stream = stream
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = _refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._depth = 0
        self._item_depth = 0  # 0 outside an item
        self._line = 0
        self._value: list[str] = []
        self._n_characters = 0
        self._own: dict[str, list[str]] = {}  # of Merchant Center's namespace
        self._others: dict[str, list[str]] = {}
        self._complete: list[XmlItem] = []

    def __iter__(self) -> Iterator[XmlItem]:
        """Yield the items. Raises `ValueError` with the line where the feed is cut off or malformed."""
        is_final = False
        while not is_final:
            chunk = self._stream.read(CHUNK_BYTES)
            is_final = not chunk
            try:
                self._parser.Parse(chunk, is_final)
            except expat.ExpatError as error:
                hint = "; the feed is cut off or no well-formed XML" + ", export it again" * is_final
                raise ValueError(f"line {error.lineno}: {expat.ErrorString(error.code)}{hint}") from error
            except LookupError as error:
                raise ValueError(f"{error}; save it as UTF-8") from error
            complete, self._complete = self._complete, []
            yield from complete

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        local = name.rpartition(" ")[2]
        if self._depth == 1 and local not in ROOTS:
            raise ValueError(f"it begins with <{local}>; expected <rss> or <feed>")
        if not self._item_depth and local in ITEMS:
            self._item_depth, self._line = self._depth, self._parser.CurrentLineNumber
            self._own, self._others = {}, {}
        self._value, self._n_characters = [], 0

    def _text(self, text: str) -> None:
        if self._depth == self._item_depth + 1 and self._item_depth:
            self._value.append(text)
            self._n_characters += len(text)
            if self._n_characters > MAX_CHARACTERS:
                raise ValueError(
                    f"line {self._parser.CurrentLineNumber}: a value of over {MAX_CHARACTERS:,} characters"
                )

    def _end(self, name: str) -> None:
        if self._item_depth and self._depth == self._item_depth + 1:
            namespace, _, local = name.rpartition(" ")
            key = column_key(local)
            self.names.setdefault(key, local)
            values = self._own if MERCHANT in namespace else self._others
            values.setdefault(key, []).append("".join(self._value).strip())
        elif self._depth == self._item_depth:
            self._complete.append(XmlItem(self._line, {**self._others, **self._own}))
            self._item_depth = 0
        self._depth -= 1


def _refuse_doctype(name: str, *_: object) -> None:
    # Entities, which can expand to gigabytes or name files of this machine, are declared in a document type.
    raise ValueError(f"it declares a document type, <!DOCTYPE {name}>; a feed needs none")
