"""The commands that copy a store to another place and back: `vitrine backup` and `vitrine restore`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from deployments.cli.command import JSON, STORE, Commands, add_command, open_settings, print_answer
from deployments.cli.terminal import one_line

if TYPE_CHECKING:
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


def _open_both(arguments: argparse.Namespace, other: str) -> tuple[Store, Store]:
    """Return the store of the settings, and another one at the same endpoint."""
    settings = open_settings(arguments)
    return settings.open_store(), settings.model_copy(update={"store": other}).open_store()


def _progress(store: Store) -> Callable[[int], None]:
    from retrieval_core.artifacts.shards import log_progress

    logging.basicConfig(level=logging.WARNING, format="vitrine: %(message)s")
    logging.getLogger("retrieval_core").setLevel(logging.INFO)
    return log_progress("bytes in place", sum(entry.size_bytes for entry in store.entries("")))


def _lines(copied: Copied) -> list[str]:
    return [
        f"production  {(copied.release or 'none')[:12]}",
        f"copied      {copied.n_copied} objects, {copied.n_bytes:,} bytes",
        f"skipped     {copied.n_skipped} objects that are in place",
        *([f"removed     {copied.n_removed} objects"] if copied.n_removed else []),
        *(f"damaged     {key}: {one_line(damage)}" for key, damage in sorted(copied.damaged.items())),
    ]
