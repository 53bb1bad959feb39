"""Many nights of random operations and faults, against a plain model of what must hold after each.

A night is a run, an update, a backfill, a held run, a promotion, a rollback, a vacuum, a repair or a backup. Each may
be killed at any of its writes, bits flip between them, and the clock jumps. `TEST_NIGHTS=1000` makes it longer.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.releases import LATEST, PRODUCTION
from retrieval_core.errors import NotFound, ShardCorrupt, TooNew, VitrineError
from retrieval_core.maintenance.backup import back_up
from retrieval_core.maintenance.damage import promote_checked, roll_back_checked
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.vacuum import Policy, vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.maintenance.verify_objects import verify_all
from retrieval_core.store import leases
from retrieval_core.store.base import Store
from retrieval_core.store.local import LocalStore
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns

N_NIGHTS = int(os.environ.get("TEST_NIGHTS", "80"))
SEEDS = (1, 2)
N_ITEMS = 40
SHARE_KILLED, SHARE_FLIPPED, SHARE_JUMPED = 0.3, 0.3, 0.05
DAY_S = 86_400.0
WRITES = ("_put", "_put_if_absent", "_put_file", "_compare_and_swap", "_delete")


class Killed(BaseException):
    """The process ends here."""


class Shop:
    """A store, and the model of it: the items of each release, and what production was and is."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.folder, self.backup = folder / "store", open_store(str(folder / "backup"))
        self.store = open_store(str(self.folder))
        self.runs = SealedRuns(self.store)
        self.n_named = 0
        self.items = {self._new_item() for _ in range(20)}
        self.given: list[set[str]] = []  # the items of every run that was started
        self.sold: dict[str, set[str]] = {}  # items by release
        self.history: list[str] = []  # of production, the current release last
        self.is_back = False  # production is an earlier release again, of which a repair may have removed something
        self.tried: Counter[str] = Counter()
        self.run()

    # Nights

    def run(self) -> None:
        """A nightly run after some items came and went; it is published."""
        self._change_items(self.random.randint(0, 6))
        self._seal(PRODUCTION)

    def update(self) -> None:
        """One item comes, and is published."""
        self._change_items(1)
        self._seal(PRODUCTION)

    def held(self) -> None:
        """A run that the gate holds: `latest` moves, production does not."""
        self._change_items(3)
        self._seal(LATEST)

    def backfill(self) -> None:
        """Another backbone's release beside production, not published."""
        self._seal(LATEST, backbone=f"other {self.random.randint(0, 1)}")

    def promote(self) -> None:
        """A person promotes any release that is there."""
        name = self.random.choice(releases.release_names(self.store))
        promotion = releases.Promotion(release=name, by="anna", at="2026-11-29T00:00:00+00:00")
        self._move(lambda: promote_checked(self.store, promotion))

    def rollback(self) -> None:
        with suppress(NotFound):  # there is no earlier one
            self._move(lambda: roll_back_checked(self.store))

    def _move(self, move: Callable[[], object]) -> None:
        """Move production by hand; a release that lost what a repair could not rebuild is refused."""
        try:
            move()
        except ShardCorrupt as error:
            if "Production was not moved" not in str(error):
                raise
            self.tried["refused"] += 1

    def vacuum(self) -> None:
        must_stay = {*self.history[-3:], self._latest()} & set(releases.release_names(self.store))
        policy = Policy(keep=2, older_than_days=self.random.choice([0, 3]), safe_hours=self.random.choice([0, 24]))
        try:
            vacuum(self.store, policy, time.time())
        except (NotFound, ShardCorrupt):
            assert self.is_back, "production is whole, but nothing may be removed"
        assert must_stay <= set(releases.release_names(self.store)), "a release that must stay was removed"

    def repair(self) -> None:
        # What an earlier repair removed of the last run is absent until the next.
        findings = [finding for finding in repair(self.store).findings if "it is absent" not in finding.detail]
        # Production that is back may lack its report, which a repair names and leaves.
        changed = [finding for finding in findings if not (self.is_back and finding.action == "refused")]
        assert not changed, "an intact store was changed"

    def back_up(self) -> None:
        back_up(self.store, self.backup)
        copied = releases.read_release(self.backup, PRODUCTION)
        assert copied is not None
        assert copied.fingerprint == self.history[-1]
        assert not self._wrong(self.backup)

    # Faults

    @contextmanager
    def killed_at(self, n_writes: int) -> Iterator[None]:
        """Let the process die at the n-th write from here, before or after it is done; it may end before."""
        left, before = [n_writes], self.random.random() < 0.5
        originals = {name: getattr(LocalStore, name) for name in WRITES}

        def dying(write: Callable[..., object]) -> Callable[..., object]:
            def wrapped(store: LocalStore, *arguments: object) -> object:
                left[0] -= 1
                if left[0] < 0 or (left[0] == 0 and before):
                    raise Killed
                answer = write(store, *arguments)
                if left[0] == 0:
                    raise Killed
                return answer

            return wrapped

        for name, write in originals.items():
            setattr(LocalStore, name, dying(write))
        try:
            yield
        except Killed:
            self.tried["killed"] += 1
        finally:
            for name, write in originals.items():
                setattr(LocalStore, name, write)
        # Ten minutes later the leases of the dead have expired.
        shutil.rmtree(self.folder / leases.FOLDER, ignore_errors=True)
        shutil.rmtree(Path(self.backup.url) / leases.FOLDER, ignore_errors=True)

    def flip_a_bit(self) -> None:
        """Change a bit of any object: it is found and named, and mended or restored from a backup."""
        entry = self.random.choice([entry for entry in self.store.entries("") if entry.size_bytes])
        path, data = self.folder / entry.key, self.store.get(entry.key)
        bit = self.random.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        self.tried["flipped"] += 1
        try:
            found = verify_all(self.store)
            # Files that no manifest lists, as their run was killed or a repair removed it, are checked before use.
            assert entry.key in {check.name for check in found.checks if not check.ok} or self._is_leftover(entry.key)
            if self.random.random() < 0.5:
                self._run_over_damage()
            mended = repair(self.store)
            is_mended = mended.ok
        except TooNew:  # the bit made a newer format of it: nothing is touched
            is_mended = False
        if is_mended and any(finding.action == "removed" for finding in mended.findings):
            self.update()  # the next run makes it again
        if not is_mended:
            path.write_bytes(data)
            assert repair(self.store).ok, f"{entry.key} was restored"
        self._follow_production()

    def _is_leftover(self, key: str) -> bool:
        inventory = Inventory(self.store)
        listed = (part.key for artifact in map(inventory.open, inventory.artifact_keys()) for part in artifact.parts)
        return bool(re.fullmatch(r".*/[0-9a-f]{32}/(?!manifest\.json)[^/]+", key)) and key not in listed

    def _run_over_damage(self) -> None:
        """A run meets the damage: it succeeds, or says what to do."""
        refused = pytest.raises((ShardCorrupt, NotFound), match=r"repair|run again|there is")
        try:
            self.given.append(set(self.items))
            self.runs.seal(sorted(self.items))
        except (ShardCorrupt, NotFound) as error:
            with refused:
                raise error

    def jump_clock(self) -> None:
        """All files are suddenly days older or younger."""
        by_s = self.random.uniform(-10, 10) * DAY_S
        for path in self.folder.rglob("*"):
            if path.is_file():
                at_s = path.stat().st_mtime + by_s
                os.utime(path, (at_s, at_s))
        self.tried["jumped"] += 1

    # The model

    def night(self) -> None:
        """One random operation, perhaps killed, and all that must hold afterwards."""
        operations = (self.run, self.run, self.update, self.update, self.held, self.backfill, self.promote)
        operation = self.random.choice((*operations, self.rollback, self.vacuum, self.repair, self.back_up))
        self.tried[operation.__name__] += 1
        before = list(self.history)
        if self.random.random() < SHARE_KILLED:
            with self.killed_at(self.random.randint(1, 60)):
                operation()
            self._follow_production(before)
            self.check()
            operation()  # the next night
        else:
            operation()
        self._follow_production(before)
        self.check()
        if self.random.random() < SHARE_FLIPPED:
            self.flip_a_bit()
            self.check()
        if self.random.random() < SHARE_JUMPED:
            self.jump_clock()
            self.check()

    def check(self) -> None:
        """Production is what the model says, whole, and holds exactly the items that its run was given."""
        release = releases.read_release(self.store, PRODUCTION)
        assert release is not None
        assert release.fingerprint == self.history[-1]
        assert not self._wrong(self.store)
        assert set(load_items(self.store, release.catalog.name)["item_id"]) == self.sold[release.fingerprint]

    def _wrong(self, store: Store) -> list[str]:
        """Return what is wrong with production, except what no search needs and a repair may have removed."""
        wrong = [check.detail for check in verify(store).checks if not check.ok]
        absent = "/(reports|vectors|masks)/.*manifest.json"
        return [detail for detail in wrong if not (self.is_back and re.search(absent, detail))]

    def _follow_production(self, before: list[str] | None = None) -> None:
        """Read where production went; it may only have gone to a release that was made, or back in its history."""
        self._learn_releases()
        alias = releases.read_alias(self.store, PRODUCTION)
        assert alias is not None
        allowed = {*(before or self.history), *self.sold}
        assert alias.release in allowed, "production is a release that nobody made"
        self.is_back = self.is_back or alias.release != self.history[-1]
        self.history = [*alias.history, alias.release]

    def _learn_releases(self) -> None:
        """A killed run may have sealed its release before it could say so: its items are those it was given."""
        for name in releases.release_names(self.store):
            if name not in self.sold:
                with suppress(VitrineError):
                    release = Release.find(self.store, name)
                    if release:
                        self.sold[name] = set(load_items(self.store, release.catalog.name)["item_id"])
                        assert self.sold[name] in self.given

    def _seal(self, alias: str, backbone: str = "b") -> None:
        self.given.append(set(self.items))
        release = self.runs.seal(sorted(self.items), backbone=backbone, alias=alias)
        self.sold[release.fingerprint] = set(self.items)
        self.is_back = self.is_back and alias != PRODUCTION
        if alias == PRODUCTION and release.fingerprint != (self.history or [""])[-1]:
            self.history.append(release.fingerprint)

    def _latest(self) -> str:
        alias = releases.read_alias(self.store, LATEST)
        assert alias is not None
        return alias.release

    def _change_items(self, n: int) -> None:
        for _ in range(n):
            if len(self.items) > N_ITEMS or (len(self.items) > 10 and self.random.random() < 0.4):
                self.items.discard(self.random.choice(sorted(self.items)))
            else:
                self.items.add(self._new_item())

    def _new_item(self) -> str:
        self.n_named += 1
        return f"item-{self.n_named}"


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", SEEDS)
def test_after_any_nights_production_is_whole_and_is_what_the_model_allows(seed: int, tmp_path: Path) -> None:
    shop = Shop(tmp_path, seed)
    for number in range(N_NIGHTS // len(SEEDS)):
        try:
            shop.night()
        except BaseException as error:
            error.add_note(f"seed {seed}, night {number}, so far {dict(shop.tried)}")
            raise
    assert verify_all(shop.store).ok
    print(f"{N_NIGHTS // len(SEEDS)} nights of seed {seed}: {dict(shop.tried)}")
