"""Read every object of a store and compare it with its checksum: `vitrine verify --all`.

The checksum of a part is in the manifests that list it and in its own key; manifests, aliases and the tables of the
last ingest carry their own.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.growing_sets import named_sha256
from retrieval_core.artifacts.manifests import MANIFEST, Artifact, Backbone, Ref, Release
from retrieval_core.artifacts.parts import read_unsealed
from retrieval_core.errors import NotFound, Permanent, ShardCorrupt, TooNew
from retrieval_core.index.plan import TEMPLATE_FILE, TEMPLATES, read_template
from retrieval_core.maintenance.inventory import ALL_KINDS
from retrieval_core.maintenance.verify import Check, Verification, verify
from retrieval_core.store.base import Entry, Store
from retrieval_core.store.format import MARKER, read_format

THREADS = 4  # the disk stays busy while some of the files are hashed
Advance = Callable[[int], None]


class Pace:
    """Bounds how many bytes a second several threads read together; 0 sets no bound."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s, self._lock = bytes_per_s, threading.Lock()
        self._free_at_s = time.monotonic()

    def wait_for(self, n_bytes: int) -> None:
        """Wait until these bytes may be read."""
        if not self._bytes_per_s:
            return
        with self._lock:
            start_s = max(self._free_at_s, time.monotonic())
            self._free_at_s = start_s + n_bytes / self._bytes_per_s
        time.sleep(max(0.0, start_s - time.monotonic()))


def verify_all(
    store: Store, bytes_per_s: float = 0.0, progress: Callable[[int], Advance] = lambda total: lambda n_bytes: None
) -> Verification:
    """Prove production intact, if there is one, and every object of the store.

    At most `bytes_per_s` bytes are read in a second (0: as fast as possible). `progress` is given the bytes of the
    store; what it returns is given those of each object once it is checked. Each damaged object is a failed check by
    its key.
    """
    checks = _prove_production(store)
    entries = {entry.key: entry for entry in store.entries("")}
    listed, damaged = _read_documents(store, entries)
    sha256 = _named_checksums(entries) | listed
    damaged |= dict.fromkeys(listed.keys() - entries.keys(), "a manifest lists it, and it is missing")
    self_checking = {key for key in entries if checks_itself(key)}
    pace, advance = Pace(bytes_per_s), progress(sum(entry.size_bytes for entry in entries.values()))

    def check(entry: Entry) -> str:
        if entry.key in sha256:
            damage = _compare(store, entry.key, sha256[entry.key], pace)
        else:
            pace.wait_for(entry.size_bytes)
            damage = _error_of(partial(read_self_checking, store, entry.key))
        advance(entry.size_bytes)
        return damage

    hashed = [entries[key] for key in sorted((sha256.keys() & entries.keys()) | self_checking)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = zip(hashed, pool.map(check, hashed), strict=True)
        damaged |= {entry.key: damage for entry, damage in found if damage}
    n_bytes = sum(entry.size_bytes for entry in hashed)
    unchecked = entries.keys() - sha256.keys() - self_checking - {key for key in entries if _is_document(key)}
    detail = (
        f"{len(entries) - len(unchecked)} objects were read, {n_bytes:,} bytes in parts and tables; {len(damaged)} are "
        f"damaged; {len(unchecked)} have no checksum, such as checkpoints and notes of runs"
    )
    whole = Check(name="objects", ok=not damaged, detail=detail)
    failed = [Check(name=key, ok=False, detail=damage) for key, damage in sorted(damaged.items())]
    checks = [*checks, whole, *failed]
    return Verification(ok=all(check.ok for check in checks), checks=checks)


def _prove_production(store: Store) -> list[Check]:
    if not store.exists(releases.alias_key(releases.PRODUCTION)):
        return []
    try:
        return verify(store).checks
    except TooNew:
        raise
    except Permanent as error:
        return [Check(name="production", ok=False, detail=str(error))]


def _is_document(key: str) -> bool:
    return key == MARKER or key.startswith("aliases/") or (key.endswith(f"/{MANIFEST}") and _kind_of(key) is not None)


def _kind_of(key: str) -> type[Artifact] | None:
    return ALL_KINDS.get(key.split("/")[0])


def _read_documents(store: Store, entries: dict[str, Entry]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sha256 of every part that a manifest lists, and what is wrong with documents, both by key."""
    listed: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for key in filter(_is_document, entries):
        try:
            if key == MARKER:
                read_format(store)
            elif key.startswith("aliases/"):
                _check_alias(store, key.removeprefix("aliases/"))
            else:
                listed |= {part.key: part.sha256 for part in open_manifest(store, key).parts}
        except TooNew:
            raise
        except Permanent as error:
            damaged[key] = str(error)
    return listed, damaged


def open_manifest(store: Store, key: str) -> Artifact:
    """Return the artifact of a manifest by the manifest's key. Raises `NotFound`, `ShardCorrupt`, `TooNew`."""
    kind = _kind_of(key)
    if kind is None:
        raise NotFound(f"{store.url}/{key} is no manifest")
    return kind.open(store, Ref(kind=kind.__name__, key=key.removesuffix(f"/{MANIFEST}")))


def _check_alias(store: Store, name: str) -> None:
    alias = releases.read_alias(store, name)
    if alias is None:
        return
    kind = Backbone if releases.is_backbone_alias(name) else Release
    target = kind.find(store, alias.release)
    if target is None:
        raise NotFound(f"it points at {alias.release}, which is absent")
    if alias.manifest not in ("", target.sha256):
        raise ShardCorrupt(f"it was pointed at another manifest of {alias.release} than the one that is there now")


def _named_checksums(entries: dict[str, Entry]) -> dict[str, str]:
    """Return the sha256 of the objects whose keys state it."""
    return {key: sha256 for key in entries if (sha256 := named_sha256(key))}


def _compare(store: Store, key: str, sha256: str, pace: Pace) -> str:
    """Return how an object differs from its sha256, "" if it does not."""
    digest = hashlib.sha256()
    try:
        for chunk in store.chunks(key):
            digest.update(chunk)
            pace.wait_for(len(chunk))
    except Permanent as error:
        return str(error)
    return "" if digest.hexdigest() == sha256 else f"its sha256 is {digest.hexdigest()[:12]}…, not {sha256[:12]}…"


def checks_itself(key: str) -> bool:
    """Return whether an object is a template, or a table that carries its own checksum."""
    is_template = key.startswith(TEMPLATES) and key.endswith(f"/{TEMPLATE_FILE}")
    return is_template or key.startswith("ingest/") or "/plans/" in key


def read_self_checking(store: Store, key: str) -> None:
    """Read such an object. Raises `ShardCorrupt` where it is damaged, `NotFound`."""
    if key.startswith(TEMPLATES):
        read_template(store, key.removeprefix(TEMPLATES).removesuffix(f"/{TEMPLATE_FILE}"))
    else:
        read_unsealed(store, key)


def _error_of(read: Callable[[], object]) -> str:
    try:
        read()
    except Permanent as error:
        return str(error)
    return ""
