"""What a database must offer to be the target of an export, and what all of them share."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, TargetRefused, TargetUnavailable
from retrieval_core.export.rows import Rows

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")  # valid for an alias, a table and an index of every target
PAUSES_S = (1.0, 4.0, 16.0)  # before a request is sent again to a target that is overloaded or away
DEPTH = 10  # neighbours that each query of a verification asks for

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Address:
    """Where a target is and by which name searches find the export there; `url` and `token` may be secret."""

    name: str
    url: str = field(repr=False)
    token: str = field(default="", repr=False)


class Target(Protocol):
    """A database open for one export.

    A collection holds the rows of one vector space, by row id. Searches use the alias of the export, which points at
    one collection. Every method raises `TargetUnavailable` where the database does not answer, `BadConfig` where it
    refuses the login, and `TargetRefused` where it refuses something else. No message has a password or a token.
    """

    label: str  # the address without credentials

    def current(self) -> str | None:
        """Return the collection that the alias points at. Raises `BadConfig` where the name is something else."""
        ...

    def collections(self) -> Sequence[str]:
        """Return all collections of this export."""
        ...

    def open(self, collection: str, dim: int) -> bool:
        """Make the collection the one to write to; return whether it was created now.

        Raises `TargetRefused` where there is one of another width.
        """
        ...

    def hashes(self) -> Iterator[tuple[Int64, Int64]]:
        """Yield (n,) row ids and (n,) content hashes of what the open collection holds, batch by batch."""
        ...

    def upsert(self, rows: Rows) -> None:
        """Write these rows, whether or not the collection has rows of these ids."""
        ...

    def delete(self, row_ids: Int64) -> None:
        """Remove these rows."""
        ...

    def finish(self) -> None:
        """Make everything that was written searchable."""
        ...

    def nearest(self, vectors: Float32, k: int) -> list[list[int]]:
        """Return the row ids of the k rows nearest to each of (q, dim) vectors, as a shop's search would find them."""
        ...

    def publish(self) -> None:
        """Point the alias at the open collection."""
        ...

    def drop(self, collection: str) -> None:
        """Remove a collection that the alias does not point at."""
        ...

    def close(self) -> None:
        """Give up what was not published, as far as the database can, and disconnect."""
        ...


def is_collection(name: str, export_name: str) -> bool:
    """Return whether a collection is one of the export of that name."""
    return re.fullmatch(rf"{export_name}_[0-9a-f]{{12}}", name) is not None


def patiently(send: Callable[[], Answer]) -> Answer:
    """Return what `send` returns, called again after `PAUSES_S` as long as it raises `TargetUnavailable`."""
    for pause_s in PAUSES_S:
        try:
            return send()
        except TargetUnavailable as error:
            log.warning("%s; trying again in %g s", error, pause_s)
            time.sleep(pause_s)
    return send()


def other_width(collection: str, found: object, expected: int) -> TargetRefused:
    """Return the error for a collection of another width than its name says."""
    return TargetRefused(
        f"{collection} holds vectors of {found} dimensions, expected {expected}: something else made or changed it; "
        "remove it, and run the same command again"
    )


def name_taken(name: str, what: str) -> BadConfig:
    """Return the error for an alias whose name another thing has."""
    return BadConfig(f"{name} is {what} and not made by an export; choose another name with --name")
