"""Merged changes keep every name, in the list that it was last in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.ingest.change import Change, merge_changes

names = st.lists(st.sampled_from("abcd"), max_size=3).map(tuple)
changes = st.lists(
    st.builds(Change, added=names, changed=names, removed=names, manifest_uri=st.sampled_from(("", "m.csv", "n.csv"))),
    max_size=6,
)


def test_the_last_word_counts() -> None:
    burst = [Change(added=("a", "b")), Change(removed=("a",)), Change(removed=("c",)), Change(added=("c",))]
    assert merge_changes(burst) == (Change(added=("b", "c"), removed=("a",)),)


@given(changes)
def test_every_name_is_kept_once_and_under_its_last_word(burst: list[Change]) -> None:
    last_word = {}
    for change in burst:
        for word in ("added", "changed", "removed"):
            for name in getattr(change, word):
                last_word[name] = word
    merged = merge_changes(burst)
    said = [
        (name, word) for change in merged for word in ("added", "changed", "removed") for name in getattr(change, word)
    ]
    assert sorted(said) == sorted(last_word.items())
    assert {change.manifest_uri for change in merged} - {""} == {change.manifest_uri for change in burst} - {""}
    assert not any(change.is_empty for change in merged)


@given(changes, changes)
def test_in_two_steps_as_in_one(first: list[Change], second: list[Change]) -> None:
    assert merge_changes([*merge_changes(first), *merge_changes(second)]) == merge_changes([*first, *second])
