"""Rewrite a store of the first format in the current one: `vitrine migrate`.

The first format had no checksums in its documents, none in references and aliases, and named the parts of growing sets
and the templates of indexes after what they were made of only. Files are copied to their new names first, then
documents are rewritten, those that others refer to before the others, and the number of the format is written last. A
migration that was killed is repeated; until it has ended the store can be read, but not written to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.growing_sets import put_growing_part
from retrieval_core.artifacts.manifests import MANIFEST, Artifact, IndexSet, Part, Ref, Release, Value
from retrieval_core.artifacts.parts import describe_part, put_parts
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.index.plan import TEMPLATE_FILE, TEMPLATES
from retrieval_core.maintenance.inventory import ALL_KINDS
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.format import FORMAT, mark_current, read_format

_OLD_PART = re.compile(r"(?P<folder>masks|vectors|classes)/(?P<family>[^/]+)/parts/(?P<name>[^/-]+)\.parquet")
_OLD_TEMPLATE = re.compile(rf"{TEMPLATES}(?P<name>[^/]+)\.faiss")


class Migration(Value):
    """What a migration rewrites: files that are copied to new names, and documents.

    `from_format` is that of the store, 0 for an empty one; `to_format` is this version's.
    """

    from_format: int
    to_format: int = FORMAT
    n_files: int = 0
    n_bytes: int = 0
    n_documents: int = 0

    def as_sentence(self, is_done: bool) -> str:
        """Say what is or was rewritten."""
        if self.from_format in (0, self.to_format):
            return f"nothing to migrate: the store has format {self.to_format}" if self.from_format else "it is empty"
        verb = "copied" if is_done else "would copy"
        return (
            f"from format {self.from_format} to {self.to_format}: {verb} {self.n_files} files ({self.n_bytes:,} bytes) "
            f"to new names and {'rewrote' if is_done else 'rewrite'} {self.n_documents} documents; "
            + ("the old files are removed" if is_done else "`--apply` does it")
        )


def plan_migration(store: Store) -> Migration:
    """Return what `migrate` would rewrite, changing nothing. Raises `TooNew`, `ShardCorrupt`."""
    number = read_format(store) or 0
    if number in (0, FORMAT):
        return Migration(from_format=number)
    entries = list(store.entries(""))
    files = [entry for entry in entries if _OLD_PART.fullmatch(entry.key) or _OLD_TEMPLATE.fullmatch(entry.key)]
    documents = [entry for entry in entries if _is_manifest(entry.key) or entry.key.startswith("aliases/")]
    return Migration(
        from_format=number,
        n_files=len(files),
        n_bytes=sum(entry.size_bytes for entry in files),
        n_documents=len(documents),
    )


def migrate(store: Store) -> Migration:
    """Rewrite a store in the current format, unless it has it; return what was rewritten.

    Raises `StoreBusy` while it is in use, `TooNew`, and `ShardCorrupt` for a damaged file or document, after which the
    store still has its old format: repair it with the version of Vitrine that wrote it, then migrate again.
    """
    plan = plan_migration(store)
    if plan.from_format in (0, FORMAT):
        return plan
    with leases.exclusive_lease(store, "a migration"):
        keys = [key for key in store.list("") if _is_manifest(key)]
        artifacts = [_open(store, key) for key in keys]
        moved = _copy_parts(store, {part.key: part for artifact in artifacts for part in artifact.parts})
        templates = _copy_templates(store)
        sha256: dict[str, str] = {}
        for artifact in sorted(artifacts, key=lambda artifact: isinstance(artifact, Release)):
            sealed, data = _rewritten(artifact, moved, templates, sha256).to_sealed()
            sha256[artifact.key] = sealed.sha256
            store.put(f"{artifact.key}/{MANIFEST}", data)
        for name in list(releases.alias_names(store)):
            _rewrite_alias(store, name, sha256)
        mark_current(store)
        for key in [key for key in store.list("") if _OLD_PART.fullmatch(key) or _OLD_TEMPLATE.fullmatch(key)]:
            store.delete(key)
    return plan


def _is_manifest(key: str) -> bool:
    return key.endswith(f"/{MANIFEST}") and key.split("/")[0] in ALL_KINDS


def _open(store: Store, key: str) -> Artifact:
    kind = ALL_KINDS[key.split("/")[0]]
    return kind.open(store, Ref(kind=kind.__name__, key=key.removesuffix(f"/{MANIFEST}")))


def _copy_parts(store: Store, listed: Mapping[str, Part]) -> dict[str, Part]:
    """Copy the parts of growing sets to names with their checksum; return the new parts by the old keys.

    A part that is not what its manifest lists raises `ShardCorrupt`.
    """
    moved = {}
    for key in list(store.list("")):
        match = _OLD_PART.fullmatch(key)
        if match is None:
            continue
        part = listed.get(key) or describe_part(store, key, 0)
        data = store.local_path(key, part.sha256).read_bytes()
        moved[key] = put_growing_part(store, match["folder"], match["family"], match["name"], data, part.n_rows)
    lost = [key for key in listed if _OLD_PART.fullmatch(key) and key not in moved]
    if lost:
        raise NotFound(f"{store.url}/{lost[0]} is listed by a manifest and missing, and {len(lost) - 1} more")
    return moved


def _copy_templates(store: Store) -> dict[str, str]:
    """Copy the templates of indexes to names with their checksum; return the new names by the old ones."""
    names = {}
    for key in list(store.list(TEMPLATES)):
        if match := _OLD_TEMPLATE.fullmatch(key):
            (part,) = put_parts(store, f"{TEMPLATES}{match['name']}", {TEMPLATE_FILE: store.get(key)})
            names[match["name"]] = part.key.removeprefix(TEMPLATES).removesuffix(f"/{TEMPLATE_FILE}")
    return names


def _rewritten(
    artifact: Artifact, moved: Mapping[str, Part], templates: Mapping[str, str], sha256: Mapping[str, str]
) -> Artifact:
    """Return an artifact with the new keys of its parts, and with the checksums of what it refers to."""
    changes: dict[str, Any] = {"parts": tuple(moved.get(part.key, part) for part in artifact.parts)}
    if isinstance(artifact, IndexSet):
        changes["template"] = templates.get(artifact.template, artifact.template)
    if isinstance(artifact, Release):
        for name in type(artifact).model_fields:
            value = getattr(artifact, name)
            if isinstance(value, Ref):
                changes[name] = _with_sha256(value, sha256)
        changes["heads"] = tuple(_with_sha256(ref, sha256) for ref in artifact.heads)
    return artifact.model_copy(update=changes)


def _with_sha256(ref: Ref, sha256: Mapping[str, str]) -> Ref:
    """Return a reference with its checksum; what it names may have been removed by a vacuum."""
    return ref.model_copy(update={"sha256": sha256.get(ref.key, "")})


def _rewrite_alias(store: Store, name: str, sha256: Mapping[str, str]) -> None:
    alias = releases.read_alias(store, name)
    if alias is None:
        return
    folder = "backbones" if releases.is_backbone_alias(name) else Release.folder
    manifest = sha256.get(f"{folder}/{alias.release}")
    if manifest is None:
        raise ShardCorrupt(f"alias {name} points at {alias.release}, which is absent from {store.url}")
    store.put(releases.alias_key(name), alias.model_copy(update={"manifest": manifest}).to_sealed()[1])
