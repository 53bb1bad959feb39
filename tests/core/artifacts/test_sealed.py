"""Sealed documents: every changed bit is noticed, and what a newer version wrote is not taken for damage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.manifests import IndexSet, Part, Reducer, Ref, VectorSet
from retrieval_core.artifacts.sealed import Sealed
from retrieval_core.artifacts.variants import Variant
from retrieval_core.errors import NotFound, ShardCorrupt, TooNew
from retrieval_core.store.base import Store
from retrieval_core.store.format import FORMAT

VECTORS = VectorSet(
    fingerprint="f" * 32,
    family="a" * 32,
    variant=Variant(),
    dim=8,
    parts=(Part(key=f"vectors/x/parts/p-{'0' * 64}.parquet", sha256="0" * 64, n_rows=3, n_bytes=99),),
    counts={"rows": 3},
)


class Note(Sealed):
    text: str = ""
    numbers: tuple[int, ...] = ()


def with_fields(data: bytes, **fields: Any) -> bytes:
    """Return a document with more fields, as somebody would write it who does not know about the checksum."""
    return json.dumps(json.loads(data) | fields).encode()


@given(st.text(), st.lists(st.integers(), max_size=5))
def test_a_document_is_read_as_it_was_sealed(text: str, numbers: list[int]) -> None:
    sealed, data = Note(text=text, numbers=tuple(numbers)).to_sealed()
    assert Note.from_sealed(data, "n") == sealed
    assert sealed.to_sealed() == (sealed, data), "sealing twice gives the same file"


def test_no_changed_bit_of_a_manifest_is_read_as_another_value() -> None:
    sealed, data = VECTORS.to_sealed()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ShardCorrupt, TooNew)):
            VectorSet.from_sealed(bytes(changed), "m")
    assert VectorSet.from_sealed(data, "m") == sealed


def test_a_changed_bit_is_taken_for_damage_unless_it_is_in_the_number_of_the_format() -> None:
    _, data = VECTORS.to_sealed()
    too_new = []
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            VectorSet.from_sealed(bytes(changed), "m")
        except TooNew:
            too_new.append(bit // 8)
        except ShardCorrupt:
            pass
    assert set(too_new) == {data.index(str(FORMAT).encode())}


@pytest.mark.parametrize("n_cut", [1, 2, 100, 10_000])
def test_a_document_cut_short_is_damaged(n_cut: int) -> None:
    with pytest.raises(ShardCorrupt):
        VectorSet.from_sealed(VECTORS.to_sealed()[1][:-n_cut], "m")


def test_a_document_of_a_newer_format_is_too_new() -> None:
    _, data = VECTORS.to_sealed()
    newer = data.replace(f'"format": {FORMAT}'.encode(), f'"format": {FORMAT + 1}'.encode())
    with pytest.raises(TooNew, match=f"has format {FORMAT + 1}.*reads up to {FORMAT}"):
        VectorSet.from_sealed(newer, "m")


def test_a_document_with_more_fields_is_too_new_sealed_or_not() -> None:
    class Later(VectorSet):
        normalised: bool = True

    sealed_later = Later.model_validate(VECTORS.model_dump()).to_sealed()[1]
    for data in (sealed_later, with_fields(VECTORS.to_sealed()[1], normalised=True)):
        with pytest.raises(TooNew, match="newer version"):
            VectorSet.from_sealed(data, "m")


def test_a_document_of_the_first_format_is_read_without_a_checksum() -> None:
    fields = json.loads(VECTORS.to_sealed()[1])
    del fields["format"], fields["sha256"]
    read = VectorSet.from_sealed(json.dumps(fields).encode(), "m")
    assert (read.format, read.sha256, read.parts) == (1, "", VECTORS.parts)


def test_a_ref_opens_only_the_manifest_that_it_was_taken_from(local_store: Store) -> None:
    reducer = Reducer(fingerprint="e" * 32, input_dim=8, dims=(4,))
    sealed = reducer.seal(local_store)
    assert Reducer.open(local_store, sealed.ref) == sealed
    local_store.delete(f"{sealed.key}/manifest.json")
    other = reducer.model_copy(update={"dims": (2,)}).seal(local_store)
    with pytest.raises(ShardCorrupt, match="made again"):
        Reducer.open(local_store, sealed.ref)
    assert Reducer.open(local_store, other.ref) == other


def test_a_manifest_in_the_folder_of_another_is_refused(local_store: Store) -> None:
    first = Reducer(fingerprint="1" * 32, input_dim=8, dims=(4,)).seal(local_store)
    local_store.put(f"reducers/{'2' * 32}/manifest.json", local_store.get(f"{first.key}/manifest.json"))
    with pytest.raises(ShardCorrupt):
        Reducer.find(local_store, "2" * 32)
    with pytest.raises(NotFound):
        IndexSet.open(local_store, Ref(kind="IndexSet", key="indexes/none"))


def test_of_two_that_seal_the_same_name_both_get_the_first(local_store: Store) -> None:
    first = Reducer(fingerprint="e" * 32, input_dim=8, dims=(4,)).seal(local_store)
    second = Reducer(fingerprint="e" * 32, input_dim=8, dims=(4,), explained_variance={"4": 0.5}).seal(local_store)
    assert second == first
