"""The commands that copy a store, or a release of it, to another place: `vitrine backup`, `restore` and `export`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from deployments.cli.command import JSON, STORE, Commands, add_command, open_settings, print_answer
from deployments.cli.terminal import one_line
from retrieval_core.errors import BadConfig

if TYPE_CHECKING:
    from retrieval_core.export.export import Exported
    from retrieval_core.maintenance.backup import Copied
    from retrieval_core.store.base import Store

_ADDRESS = "a folder or s3://bucket/prefix; on S3, both sides use the same endpoint and credentials"


def add_commands(commands: Commands) -> None:
    """Add the commands of this file."""
    text = "copy what a backup lacks of the store, also while runs publish"
    backup = add_command(commands, "backup", _backup, text, JSON, STORE)
    backup.add_argument("--to", required=True, metavar="URL", help=_ADDRESS)
    text = "compare everything in the backup with its checksum, and replace what differs"
    backup.add_argument("--verify", action="store_true", help=text)
    text = "remove from the backup what the store has no more; otherwise it keeps everything"
    backup.add_argument("--prune", action="store_true", help=text)
    restore = add_command(
        commands, "restore", _restore, "copy a backup into an empty store, and verify it", JSON, STORE
    )
    restore.add_argument("--from", required=True, dest="backup", metavar="URL", help=_ADDRESS)
    text = "bring a database that the shop searches in to a published release"
    _add_export_options(add_command(commands, "export", _export, text, JSON, STORE))


def _add_export_options(export: argparse.ArgumentParser) -> None:
    kinds = ("qdrant", "opensearch", "pgvector", "lancedb", "parquet")
    export.add_argument("--to", required=True, choices=kinds, help="the kind of database")
    text = "its address, without a password; default: VITRINE_EXPORT_URL, which may have one"
    export.add_argument("--url", default="", help=text)
    text = "the alias, view or index by which searches find the export; default: vitrine"
    export.add_argument("--name", default="vitrine", help=text)
    text = "the name of a release that the gate approved; default: production"
    export.add_argument("--release", default="production", help=text)
    text = "the least share, 0 to 1, of the release's neighbours that the database finds; default: 0.9"
    export.add_argument("--min-overlap", type=float, default=0.9, metavar="P", help=text)
    export.add_argument("--rewrite", action="store_true", help="send every item, also those that seem to be there")
    text = "remove what exports of earlier models left there; otherwise it stays, for a way back"
    export.add_argument("--prune", action="store_true", help=text)


def _backup(arguments: argparse.Namespace) -> int:
    from retrieval_core.maintenance.backup import back_up

    store, target = _open_both(arguments, arguments.to)
    copied = back_up(store, target, verify=arguments.verify, prune=arguments.prune, advance=_progress(store))
    print_answer(arguments, copied, _lines(copied))
    return 0 if copied.ok else 1


def _restore(arguments: argparse.Namespace) -> int:
    from retrieval_core.maintenance.backup import restore
    from retrieval_core.maintenance.verify import Verification, verify

    store, backup = _open_both(arguments, arguments.backup)
    copied = restore(backup, store, _progress(backup))
    verified = verify(store) if copied.release else Verification(ok=True, checks=[])
    failed = [f"FAIL      {check.name}: {check.detail}" for check in verified.checks if not check.ok]
    document = copied.model_dump(mode="json") | {"verification": verified.model_dump(mode="json")}
    print_answer(arguments, document, [*_lines(copied), *(failed or ["verified"])])
    return 0 if copied.ok and verified.ok else 1


def _export(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.min_overlap <= 1:
        raise BadConfig(f"--min-overlap is a share, 0 to 1, got {arguments.min_overlap:g}")
    arguments.extra = arguments.to
    from retrieval_core.artifacts.shards import log_progress
    from retrieval_core.export.export import How, export, find_exportable
    from retrieval_core.export.targets.registry import find_address, open_target

    address = find_address(arguments.to, arguments.url, arguments.name)
    store = open_settings(arguments).open_store()
    release = find_exportable(store, arguments.release)
    how = How(arguments.name, arguments.min_overlap, arguments.rewrite, arguments.prune)
    _log_to_stderr()
    with closing(open_target(arguments.to, address)) as target:
        exported = export(store, release, target, how, log_progress("items compared", release.counts["rows"]))
    print_answer(arguments, exported, _export_lines(exported))
    return 0 if exported.ok else 1


def _export_lines(exported: Exported) -> list[str]:
    verified = exported.verification
    state = "switched to it" if exported.switched else "uses it" if exported.ok else "does not use it"
    return [
        f"release     {exported.release[:12]}",
        f"collection  {exported.collection}{' (new)' * exported.created}; {exported.name} {state}",
        f"rows        {exported.rows}: {exported.added} added, {exported.changed} changed, "
        f"{exported.unchanged} unchanged; {exported.removed} removed",
        f"verified    {verified.rows} rows; {verified.overlap:.3f} of the {verified.depth} nearest of "
        f"{verified.sample} items are found",
        *([f"superseded  {', '.join(exported.superseded)}; --prune removes them"] if exported.superseded else []),
        *([f"pruned      {', '.join(exported.pruned)}"] if exported.pruned else []),
        *([f"FAILED      {exported.reason}"] if exported.reason else []),
    ]


def _open_both(arguments: argparse.Namespace, other: str) -> tuple[Store, Store]:
    """Return the store of the settings, and another one at the same endpoint."""
    settings = open_settings(arguments)
    return settings.open_store(), settings.model_copy(update={"store": other}).open_store()


def _progress(store: Store) -> Callable[[int], None]:
    from retrieval_core.artifacts.shards import log_progress

    _log_to_stderr()
    return log_progress("bytes in place", sum(entry.size_bytes for entry in store.entries("")))


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="vitrine: %(message)s")
    logging.getLogger("retrieval_core").setLevel(logging.INFO)


def _lines(copied: Copied) -> list[str]:
    return [
        f"production  {(copied.release or 'none')[:12]}",
        f"copied      {copied.n_copied} objects, {copied.n_bytes:,} bytes",
        f"skipped     {copied.n_skipped} objects that are in place",
        *([f"removed     {copied.n_removed} objects"] if copied.n_removed else []),
        *(f"damaged     {key}: {one_line(damage)}" for key, damage in sorted(copied.damaged.items())),
    ]
