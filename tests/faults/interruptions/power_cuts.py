"""A record of what a program does to the files of a folder, and every state that a power cut may leave of it.

The model is POSIX at its strictest. The bytes of a file survive once the file is synced, a name that was set or removed
once its folder is synced. Until then each name may have reached the disk or not, whatever the order, and the bytes may
be empty, cut off or zeros.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import compress, product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

LOSSES: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: b"",
    lambda data: data[: len(data) // 2],
    lambda data: bytes(len(data)),
)
N_FREE = 4  # of more names that may be lost, not every combination is tried
FOLDER = Path()  # in place of a file

Names = dict[Path, Path]  # the file, or `FOLDER`, that each name stands for


class _Name(NamedTuple):
    """A name that is set to a file or a folder, or removed (None)."""

    path: Path
    file: Path | None

    def apply_to(self, names: Names) -> None:
        if self.file is None:
            names.pop(self.path, None)
        else:
            names[self.path] = self.file


class _Sync(NamedTuple):
    """A sync of a file or a folder."""

    path: Path


class PowerCuts:
    """Records the steps of a block; `files` is an empty folder on the same file system, for the files it writes."""

    def __init__(self, root: Path, files: Path) -> None:
        self._root, self._files = root, files
        self._steps: list[_Name | _Sync] = []
        self._lock = threading.Lock()
        self._start = self._current()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the steps of all threads in the block."""
        with ExitStack() as patched:
            for function, record in (
                ("fsync", lambda descriptor: self._record_sync(Path(os.readlink(f"/proc/self/fd/{descriptor}")))),
                ("mkdir", lambda path, *_, **__: self._record_name(path)),
                ("unlink", lambda path, **_: self._record_name(path)),
                ("replace", lambda _, path: self._record_name(path)),
                ("link", lambda _, path: self._record_name(path)),
            ):
                patched.enter_context(patch.object(os, function, self._recorded(getattr(os, function), record)))
            yield
        names = dict(self._start)
        for step in self._steps:
            if isinstance(step, _Name):
                step.apply_to(names)
        assert names == self._current(), "something changed files by functions that are not recorded"

    def states(self, folder: Path) -> Iterator[Path]:
        """Yield the folder in each different state that a power cut may leave, each time below `folder`."""
        seen = set()
        for names, unsynced in self._cuts():
            at_risk = frozenset(unsynced.intersection(names.values()))
            for lost, loss in product({at_risk, *(frozenset([file]) for file in at_risk)}, LOSSES):
                state = (frozenset(names.items()), lost, loss if lost else None)
                if state not in seen:
                    seen.add(state)
                    with _lost(lost, loss):
                        yield self._lay_out(names, folder / str(len(seen)))

    def _recorded(self, function: Callable[..., Any], record: Callable[..., None]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                result = function(*args, **kwargs)
                record(*args, **kwargs)
                return result

        return recorded

    def _record_name(self, path: str | Path) -> None:
        if self._is_recorded(Path(path)):
            self._steps.append(_Name(Path(path), self._file(Path(path)) if os.path.exists(path) else None))

    def _record_sync(self, path: Path) -> None:
        if self._root in (path, *path.parents):
            self._steps.append(_Sync(path if path.is_dir() else self._file(path)))

    def _is_recorded(self, path: Path) -> bool:
        return self._root in path.parents and not {".tmp", ".lock"}.intersection(path.parts)

    def _file(self, path: Path) -> Path:
        """Return another name of a file, which keeps it; files are told apart by their inodes."""
        if path.is_dir():
            return FOLDER
        kept = self._files / str(path.stat().st_ino)
        if not kept.exists():
            _link(path, kept)
        return kept

    def _current(self) -> Names:
        return {path: self._file(path) for path in self._root.rglob("*") if self._is_recorded(path)}

    def _cuts(self) -> Iterator[tuple[Names, set[Path]]]:
        """Yield the names that survive a cut after each step, and the files whose bytes may not have."""
        durable, free = dict(self._start), list[_Name]()
        written, synced = set[Path](), set(self._start.values())
        for step in (None, *self._steps):
            if isinstance(step, _Name):
                free.append(step)
                written |= {step.file} - {None, FOLDER}
            elif isinstance(step, _Sync):
                synced.add(step.path)
                for name in [name for name in free if name.path.parent == step.path]:
                    free.remove(name)
                    name.apply_to(durable)
            for survivors in _choices(free):
                names = dict(durable)
                for name in survivors:
                    name.apply_to(names)
                yield self._reachable(names), written - synced

    def _reachable(self, names: Names) -> Names:
        reachable: Names = {}
        for path in sorted(names):
            if path.parent == self._root or path.parent in reachable:
                reachable[path] = names[path]
        return reachable

    def _lay_out(self, names: Names, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for path in sorted(names):
            target = folder / path.relative_to(self._root)
            target.mkdir() if names[path] == FOLDER else _link(names[path], target)
        return folder


_link = os.link  # of the file system, also while steps are recorded


def _choices(free: list[_Name]) -> Iterator[list[_Name]]:
    """Yield which of the names survive: every combination, or of many none, all, each alone, and all but each."""
    if len(free) <= N_FREE:
        yield from (list(compress(free, chosen)) for chosen in product((False, True), repeat=len(free)))
        return
    yield from ([], free)
    for number in range(len(free)):
        yield from ([free[number]], free[:number] + free[number + 1 :])


@contextmanager
def _lost(files: frozenset[Path], loss: Callable[[bytes], bytes]) -> Iterator[None]:
    """Damage files during the block in place, so that their inodes and times stay."""
    before = {file: (file.read_bytes(), file.stat()) for file in files}

    def write(file: Path, data: bytes) -> None:
        file.write_bytes(data)
        os.utime(file, ns=(before[file][1].st_atime_ns, before[file][1].st_mtime_ns))

    for file in files:
        write(file, loss(before[file][0]))
    try:
        yield
    finally:
        for file in files:
            write(file, before[file][0])
