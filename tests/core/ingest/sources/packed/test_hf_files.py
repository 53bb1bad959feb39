"""Every picture of an Arrow file has an address, whatever the batches; classes have their names."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.ingest.sources.packed.hf_files import ArrowFile, Features, features_of
from retrieval_core.store.uris import read_uri

PICTURES = st.lists(st.none() | st.binary(min_size=1, max_size=40), min_size=1, max_size=12)
KINDS = st.sampled_from([pa.binary(), pa.large_binary(), pa.struct([("path", pa.string()), ("bytes", pa.binary())])])


@given(pictures=PICTURES, kind=KINDS, batch_rows=st.integers(1, 12), skipped=st.integers(0, 3))
def test_every_picture_is_read_by_its_address(
    pictures: list[bytes | None],
    kind: pa.DataType,
    batch_rows: int,
    skipped: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cells = [{"bytes": data, "path": f"{row}.jpg"} if pa.types.is_struct(kind) else data
             for row, data in enumerate(pictures)]  # fmt: skip
    table = pa.table({"n": range(len(cells)), "image": pa.array(cells, kind)}).slice(skipped)
    path = tmp_path_factory.mktemp("arrow") / "a.arrow"
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    file = ArrowFile(path)
    rows = [*file.rows(0, "")]
    assert file.n_rows == len(rows) == len(pictures[skipped:])
    for row, data in zip(rows, pictures[skipped:], strict=True):
        without = f"{row['n']}.jpg" if pa.types.is_struct(kind) else None
        assert (without if data is None else read_uri(row["image"])) == (without if data is None else data)
        assert (row["image"] == without) is (data is None)


def test_a_packed_file_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([b"1" * 500] * 9)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="save it again without compression"):
        list(ArrowFile(tmp_path / "a.arrow").rows(0, ""))


def test_classes_have_their_names() -> None:
    names = {"a": ["x", "y"], "b": ["u"]}
    assert Features((), names, ()).named({"a": 1, "b": [0, -1], "c": 1}) == {"a": "y", "b": ["u", None], "c": 1}
    with pytest.raises(ValueError, match="class 2, but 2 classes have names"):
        Features((), names, ()).named({"a": 2})


def test_a_column_of_bytes_is_one_of_pictures_unless_the_dataset_says_otherwise() -> None:
    description = '{"info": {"features": {"mask": {"_type": "Value"}, "l": [{"names": ["x"], "_type": "ClassLabel"}]}}}'
    can = {"image": True, "mask": True, "l": False}
    assert features_of(can, description) == (("image",), {"l": ["x"]}, ())
    assert features_of(can, None).pictures == ("image", "mask")
