"""Copy a store to another place and back: `vitrine backup` and `vitrine restore`.

Aliases are read first and written last. In between, each thing is copied before the document that names it, and a
document only if all that it names is whole in the copy. So a copy opens as the release that was production when it
began, even if runs publish meanwhile, and one that was killed still opens as it did before. What does not change is
copied once, and compared with its checksum on the way.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import filterfalse

import polars as pl

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.growing_sets import named_sha256
from retrieval_core.artifacts.manifests import MANIFEST, Artifact, Backbone, Part, Ref, Release, Value
from retrieval_core.artifacts.parts import name_of_content, read_unsealed
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt, StoreNotWritable
from retrieval_core.feedback import log as feedback
from retrieval_core.index.plan import TEMPLATE_FILE, TEMPLATES
from retrieval_core.maintenance.inventory import ALL_KINDS, Inventory, release_refs, searched_refs
from retrieval_core.store import leases
from retrieval_core.store.base import PROBES, Store
from retrieval_core.store.format import MARKER, check_readable, read_format

log = logging.getLogger(__name__)

COPY_THREADS = 8  # they wait for the network
_ALIASES, _RELEASES, _INGEST = "aliases/", f"{Release.folder}/", "ingest/"
Advance = Callable[[int], None]


class Copied(Value):
    """What a backup or a restore did; `release` is production in the copy, None if nothing is published.

    `damaged` says what is wrong with each object that was left out, which no alias needs. `ok` if there is none.
    """

    ok: bool
    release: str | None
    n_copied: int
    n_skipped: int
    n_bytes: int
    n_removed: int
    damaged: dict[str, str]


def back_up(
    source: Store,
    target: Store,
    *,
    verify: bool = False,
    prune: bool = False,
    advance: Advance = lambda n_bytes: None,
) -> Copied:
    """Copy what `target` lacks of a store, beside its runs; `target` is empty or an earlier backup of it.

    With `verify` everything that the backup has is compared with its checksum, and replaced if it differs; with `prune`
    what the store has no more is removed from it. `advance` is given the bytes of each object once it is in place.
    Raises `ShardCorrupt` where an alias needs something that is damaged or missing, and `BadConfig` for a target that
    holds anything else; no alias of the backup was moved then. Raises `NotFound` for a store without aliases, `TooNew`,
    `StoreBusy` and `LeaseLost`.
    """
    with ExitStack() as stack:
        copy = _open_copy(stack, source, target, "a backup", verify, advance)
        if copy.sealed_in_target and not any(map(copy.is_equal, copy.sealed_in_target)):
            raise BadConfig(
                f"{target.url} holds another store; back up to an empty place, or to a backup of this store"
            )
        return copy.run(prune)


def restore(backup: Store, target: Store, advance: Advance = lambda n_bytes: None) -> Copied:
    """Copy a backup to `target`, which is empty or an unfinished restore of it. Raises what `back_up` raises."""
    with ExitStack() as stack:
        copy = _open_copy(stack, backup, target, "a restore", False, advance)
        with ThreadPoolExecutor(COPY_THREADS) as pool:
            is_equal = zip(copy.sealed_in_target, pool.map(copy.is_equal, copy.sealed_in_target), strict=True)
            other = next((key for key, equal in is_equal if not equal), None)
        if other:
            raise BadConfig(f"{target.url} holds {other}, which the backup does not; restore into an empty place")
        return copy.run(prune=False)


def _open_copy(
    stack: ExitStack, source: Store, target: Store, holder: str, verify: bool, advance: Advance
) -> _StoreCopy:
    """Check both sides, lease them until `stack` is closed, and list them."""
    if f"{target.url}/".startswith(f"{source.url}/") or f"{source.url}/".startswith(f"{target.url}/"):
        raise BadConfig(f"{source.url} and {target.url} lie within each other; name another place")
    check_readable(source)
    check_readable(target)
    formats = read_format(source), read_format(target)
    if None not in formats and formats[0] != formats[1]:
        raise BadConfig(
            f"{source.url} has format {formats[0]} and {target.url} has {formats[1]}: keep both, name an empty place"
        )
    try:
        stack.enter_context(leases.shared_lease(source, holder))
    except StoreNotWritable as error:
        log.warning("%s. So a vacuum or a backup may change it meanwhile; then this fails and can be repeated", error)
    stack.enter_context(leases.exclusive_lease(target, holder))
    return _StoreCopy(source, target, verify, advance)


class _StoreCopy:
    """A copy in progress. What names other things is listed before them, so that these are in the later listing."""

    def __init__(self, source: Store, target: Store, verify: bool, advance: Advance) -> None:
        self.source, self.target, self.verify, self.advance = source, target, verify, advance
        self.aliases = {key: source.get(key) for key in source.list(_ALIASES)}
        if not self.aliases:
            raise NotFound(f"nothing is published in {source.url}; so there is nothing to copy")
        releases_before = set(source.list(_RELEASES))
        self.sizes = {
            entry.key: entry.size_bytes
            for entry in source.entries("")
            if not entry.key.startswith(_RELEASES) or entry.key in releases_before
        }
        self.sizes_in_target = {entry.key: entry.size_bytes for entry in target.entries("")}
        self.sealed_in_target = [key for key in self.sizes_in_target if _is_manifest(key)]
        self.parts: dict[str, Part] = {}
        self.whole: dict[str, str] = {}  # sha256 of what is in place; of manifests, that in them
        self.damaged: dict[str, str] = {}
        self.copied_bytes: list[int] = []
        self.skipped: list[str] = []

    def is_equal(self, key: str) -> bool:
        """Return whether an object of the target is the same in the source."""
        return self.sizes.get(key) == self.sizes_in_target[key] and self.source.get(key) == self.target.get(key)

    def run(self, prune: bool) -> Copied:
        manifests = sorted(filter(_is_manifest, self.sizes))
        with ThreadPoolExecutor(COPY_THREADS) as pool:
            if MARKER in self.sizes:
                self._put_document(MARKER, self.source.get(MARKER))
            self._each(pool, self._list_parts, manifests)
            others = {key for key in self.sizes if not _is_manifest(key) and not _is_left_out(key)}
            self._each(pool, self._copy_object, sorted(others | self.parts.keys()))
            whole = [key for key in manifests if key not in self.damaged]
            self._each(pool, self._copy_manifest, [key for key in whole if not key.startswith(_RELEASES)])
            self._each(pool, self._copy_manifest, [key for key in whole if key.startswith(_RELEASES)])
            production = self._copy_aliases()
            n_removed = self._prune(pool) if prune and not self.damaged else 0
        return Copied(
            ok=not self.damaged,
            release=production,
            n_copied=len(self.copied_bytes),
            n_skipped=len(self.skipped),
            n_bytes=sum(self.copied_bytes),
            n_removed=n_removed,
            damaged=self.damaged,
        )

    def _each(self, pool: ThreadPoolExecutor, work: Callable[[str], object], keys: list[str]) -> None:
        for _ in pool.map(work, keys):
            pass

    def _list_parts(self, key: str) -> None:
        try:
            self.parts |= {part.key: part for part in _parse(self.source, key)[0].parts}
        except (NotFound, ShardCorrupt) as error:
            self.damaged[key] = str(error)

    def _copy_object(self, key: str) -> None:
        part = self.parts.get(key)
        n_bytes = part.n_bytes if part else self.sizes[key]
        try:
            if self.sizes_in_target.get(key) == n_bytes and self._is_current(key):
                self.skipped.append(key)
            else:
                if key.startswith(_INGEST) and key.endswith(".parquet"):
                    read_unsealed(self.source, key, pl.lit(False))
                self.target.put_chunks(key, self._checked(key))
                self.copied_bytes.append(n_bytes)
            self.whole[key] = part.sha256 if part else ""
            self.advance(n_bytes)
        except NotFound as error:
            if part:  # others are removed by the runs that wrote them
                self.damaged[key] = str(error)
        except ShardCorrupt as error:
            self.damaged[key] = str(error)

    def _is_current(self, key: str) -> bool:
        """Return whether the target's object of this size is the source's; most do not change under their name."""
        if key.startswith(_INGEST) or "/checkpoint/" in key:
            return _sha256(self.source, key) == _sha256(self.target, key)
        return not self.verify or self._is_valid(key, _sha256(self.target, key))

    def _checked(self, key: str) -> Iterator[bytes]:
        """Yield the object in pieces; raise `ShardCorrupt` instead of its end if it is not what was written."""
        digest = hashlib.sha256()
        for chunk in self.source.chunks(key):
            digest.update(chunk)
            yield chunk
        if not self._is_valid(key, digest.hexdigest()):
            raise ShardCorrupt(f"{self.source.url}/{key} is not what was written; `vitrine repair`")

    def _is_valid(self, key: str, sha256: str) -> bool:
        """Return whether an object may have this content, by the manifest that lists it or by its name."""
        stated = self.parts[key].sha256 if key in self.parts else named_sha256(key)
        if stated is None and key.startswith(TEMPLATES) and key.endswith(f"/{TEMPLATE_FILE}"):
            return name_of_content({TEMPLATE_FILE: sha256}) == key.split("/")[-2]
        return stated in (None, sha256)

    def _copy_manifest(self, key: str) -> None:
        """Copy a manifest if all that it names is whole in the target.

        A release is also copied where the source lost an artifact that no search opens: nothing would bring it back.
        """
        artifact, data = _parse(self.source, key)
        lacking = [part.key for part in artifact.parts if self.whole.get(part.key) != part.sha256]
        if isinstance(artifact, Release):
            for ref in filterfalse(self._is_whole, release_refs(artifact)):
                manifest = f"{ref.key}/{MANIFEST}"
                if manifest in self.sizes or ref in searched_refs(artifact):
                    lacking.append(ref.key)
                else:
                    self.damaged[manifest] = f"{key} names it, and it is missing"
        if lacking:
            self.damaged[key] = f"{lacking[0]}, which it names, is missing, damaged or another one"
            return
        self._put_document(key, data)
        self.whole[key] = artifact.sha256

    def _put_document(self, key: str, data: bytes) -> None:
        if self.sizes_in_target.get(key) == len(data) and self.target.get(key) == data:
            self.skipped.append(key)
        else:
            self.target.put(key, data)
            self.copied_bytes.append(len(data))
        self.advance(len(data))

    def _is_whole(self, ref: Ref) -> bool:
        sha256 = self.whole.get(f"{ref.key}/{MANIFEST}")
        return sha256 is not None and ref.sha256 in ("", sha256)

    def _copy_aliases(self) -> str | None:
        """Move the aliases if all that they point at is whole in the target; return the release of production."""
        targets: dict[str, str] = {}
        for key, data in self.aliases.items():
            name = key.removeprefix(_ALIASES)
            alias = releases.Alias.from_sealed(data, f"alias {name} of {self.source.url}")
            kind = Backbone if releases.is_backbone_alias(name) else Release
            if not self._is_whole(Ref(kind=kind.__name__, key=f"{kind.folder}/{alias.release}", sha256=alias.manifest)):
                reasons = "; ".join(f"{key}: {damage}" for key, damage in sorted(self.damaged.items())[:5])
                raise ShardCorrupt(
                    f"{name} of {self.source.url} needs what is damaged or missing: {reasons or alias.release}; "
                    f"`vitrine repair`, then repeat this. The aliases of {self.target.url} were not moved"
                )
            targets[name] = alias.release
        for key, data in self.aliases.items():
            self._put_document(key, data)
        return targets.get(releases.PRODUCTION)

    def _prune(self, pool: ThreadPoolExecutor) -> int:
        """Remove what the source has no more, documents before what they name."""
        removable = [*Inventory(self.target).entries, *self.target.list(f"{feedback.FOLDER}/")]
        keys = [key for key in removable if key not in self.sizes and key not in self.whole]
        for rank in range(3):
            self._each(pool, self.target.delete, [key for key in keys if _removal_rank(key) == rank])
        return len(keys)


def _parse(store: Store, key: str) -> tuple[Artifact, bytes]:
    """Return the artifact of a manifest, and the bytes. Raises `NotFound`, `ShardCorrupt`, `TooNew`."""
    data = store.get(key)
    artifact = ALL_KINDS[key.split("/")[0]].from_sealed(data, f"{store.url}/{key}")
    if f"{artifact.key}/{MANIFEST}" != key:
        raise ShardCorrupt(f"{store.url}/{key} is the manifest of {artifact.key}")
    return artifact, data


def _is_manifest(key: str) -> bool:
    return key.endswith(f"/{MANIFEST}") and key.split("/")[0] in ALL_KINDS


def _is_left_out(key: str) -> bool:
    """Return whether only the run that wrote an object needs it, or it is copied in a step of its own."""
    return key == MARKER or key.startswith((_ALIASES, leases.FOLDER, PROBES)) or "/plans/" in key


def _removal_rank(key: str) -> int:
    return 0 if key.startswith(_RELEASES) else 1 if _is_manifest(key) else 2


def _sha256(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    for chunk in store.chunks(key):
        digest.update(chunk)
    return digest.hexdigest()
