"""Parts of artifacts: write and read them.

The key of a part names its content, so that two runs cannot disagree on what it holds, and what it holds can be checked
by its key alone.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_core.arrays import Bool, Float32, Int32, Int64
from retrieval_core.artifacts.compaction import Pieces
from retrieval_core.artifacts.manifests import Artifact, ClassSet, MaskSet, Part, Value, VectorSet
from retrieval_core.artifacts.mapped_rows import (
    MissingIds,
    from_arrow,
    map_arrow,
    mapped,
    mapped_group,
    parquet_batches,
)
from retrieval_core.errors import DimensionMismatch, NotFound, ShardCorrupt
from retrieval_core.store.base import Store
from retrieval_core.store.files import file_sha256, write_errors

log = logging.getLogger(__name__)

# How Parquet encodes the parts of growing sets, by a column that only such parts have.
_ENCODINGS: dict[str, dict[str, Any]] = {
    "vector": {
        "row_group_size": 8192,
        "compression": "zstd",
        "use_dictionary": False,
        "write_statistics": False,
        "column_encoding": {"content_id": "PLAIN", "vector.list.element": "BYTE_STREAM_SPLIT"},
    },
    "mask": {"compression": "none", "use_dictionary": False},
    "classes": {"compression": "zstd"},
    "offset": {"compression": "zstd", "write_statistics": False},
}
ROW_GROUP = 1 << 20
CHECKSUM, NO_CHECKSUM = b"vitrine.sha256", b"0" * 64
SMALLEST = np.finfo(np.float32).tiny  # keeps a zero vector from becoming NaN when divided by its length
N_TOP_CLASSES = 5  # classes stored for a picture, the likeliest first


def unit_length(vectors: Float32) -> Float32:
    """Scale each row of (n, dim) to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, SMALLEST)


def put_part(store: Store, key: str, data: bytes, n_rows: int) -> Part:
    """Store bytes as an immutable part; the key must name its content, so that no other bytes are ever put there."""
    store.put(key, data)
    return Part(key=key, sha256=hashlib.sha256(data).hexdigest(), n_rows=n_rows, n_bytes=len(data))


def is_stored(store: Store, part: Part) -> bool:
    """Return whether a store has a part with the bytes that it states."""
    try:
        return store.exists(part.key) and bool(store.local_path(part.key, part.sha256))
    except (NotFound, ShardCorrupt):
        return False


def read_kept(store: Store, artifact: Artifact | None, name: str, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return the table that an artifact keeps as the part `name`; no rows of `schema` where it has none or lost it."""
    part = artifact.find_part(name) if artifact else None
    if part and is_stored(store, part):
        return read_table(store, part)
    if part:
        log.warning("%s is lost or damaged; what it kept is computed again", part.key)
    return pl.DataFrame(schema=schema)


def put_parts(
    store: Store, folder: str, files: Mapping[str, bytes | Path], n_rows: Mapping[str, int] | None = None
) -> tuple[Part, ...]:
    """Store bytes and local files as parts of an artifact, by name; `n_rows` counts the rows of tables.

    They lie together in a subfolder of the store's `folder` that is named after the content of all of them. So the
    parts of two runs that make the same thing from other floats never mix, and each is whole.
    """
    sha256 = {
        name: file_sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        for name, content in sorted(files.items())
    }
    subfolder = f"{folder}/{name_of_content(sha256)}"
    parts = []
    for name, digest in sha256.items():
        key, content = f"{subfolder}/{name}", files[name]
        if isinstance(content, Path):
            store.put_file(key, content)
            n_bytes = content.stat().st_size
        else:
            store.put(key, content)
            n_bytes = len(content)
        parts.append(Part(key=key, sha256=digest, n_rows=(n_rows or {}).get(name, 0), n_bytes=n_bytes))
    return tuple(parts)


def put_part_files(store: Store, folder: str, save: Callable[[Path], object]) -> tuple[Part, ...]:
    """Store the files that `save` writes into an empty local folder, as `put_parts` does."""
    with tempfile.TemporaryDirectory() as local:
        save(Path(local))
        return put_parts(store, folder, {file.name: file for file in Path(local).iterdir()})


def stored_parts(store: Store, folder: str, names: Collection[str]) -> tuple[Part, ...] | None:
    """Return parts that `put_parts` stored under `folder`, verified, without a manifest that lists them.

    Return None where no subfolder holds a file of each of the `names` with the bytes that it is named after.
    """
    subfolders: dict[str, set[str]] = {}
    for key in store.list(f"{folder}/"):
        subfolder, _, name = key.rpartition("/")
        subfolders.setdefault(subfolder, set()).add(name)
    for subfolder, present in subfolders.items():
        if present != set(names):
            continue
        parts = tuple(describe_part(store, f"{subfolder}/{name}", 0) for name in sorted(names))
        if is_named_after(parts, subfolder):
            return parts
        log.warning("%s/%s is not what was written; it is made again", store.url, subfolder)
    return None


def name_of_content(sha256: Mapping[str, str]) -> str:
    """Return the name of a folder by the sha256 of each of its files: 32 hex digits."""
    lines = "\n".join(f"{digest} {name}" for name, digest in sorted(sha256.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:32]


def is_named_after(parts: Iterable[Part], folder: str) -> bool:
    """Return whether a folder is named after the content of these parts, which are all of its files."""
    return folder.endswith(f"/{name_of_content({part.key.rsplit('/', 1)[-1]: part.sha256 for part in parts})}")


def table_bytes(frame: pl.DataFrame) -> bytes:
    """Encode a table as Parquet with its own checksum in the metadata; equal tables give equal bytes."""
    with table_file(frame) as path:
        return path.read_bytes()


def put_table(store: Store, key: str, frame: pl.DataFrame) -> None:
    """Store a table as `table_bytes` encodes it, without holding it in memory."""
    with table_file(frame) as path:
        store.put_file(key, path)


@contextmanager
def table_file(frame: pl.DataFrame) -> Iterator[Path]:
    """Give a local file with what `table_bytes` returns, which is deleted at the end of the block."""
    schema = frame.head(0).to_arrow().schema.with_metadata({CHECKSUM: NO_CHECKSUM})
    with tempfile.NamedTemporaryFile(prefix="vitrine-table-", suffix=".parquet") as file:
        with write_errors(Path(file.name)), pq.ParquetWriter(file.name, schema, compression="zstd") as writer:
            for rows in frame.iter_slices(ROW_GROUP) if len(frame) else [frame]:
                writer.write_table(mapped_group(rows, schema), row_group_size=ROW_GROUP)
        with mmap.mmap(file.fileno(), 0) as data:
            data[_checksum_position(data)] = hashlib.sha256(data).hexdigest().encode()
        yield Path(file.name)


def read_unsealed(
    store: Store, key: str, where: pl.Expr | None = None, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Read a table of `table_bytes` that no manifest lists: all rows, mapped, or those that pass `where`.

    All columns are read, or these. Raises `NotFound`, and `ShardCorrupt` where the bytes do not match their checksum:
    polars can abort the process on damaged files.
    """
    path = store.local_path(key)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            position = _checksum_position(data)
            digest = hashlib.sha256(memoryview(data)[: position.start])
            digest.update(NO_CHECKSUM)
            digest.update(memoryview(data)[position.stop :])
            is_whole = digest.hexdigest().encode() == data[position]
    except (OSError, ValueError):  # an empty file cannot be mapped
        is_whole = False
    if not is_whole:
        raise ShardCorrupt(f"{store.url}/{key} is not what was written; `vitrine repair` restores it")
    if where is not None:
        table = pl.scan_parquet(path).filter(where)
        return (table if columns is None else table.select(columns)).collect()
    return mapped(map(from_arrow, parquet_batches(path, columns)))


def _checksum_position(data: bytes | mmap.mmap) -> slice:
    """Return where the checksum of a Parquet file is, which was computed over `NO_CHECKSUM`. Raises `ValueError`."""
    key = data.rfind(CHECKSUM)
    if key < 0:
        raise ValueError("no checksum")
    start = key + len(CHECKSUM) + 2  # Thrift puts a field's type and a string's length between key and value
    return slice(start, start + len(NO_CHECKSUM))


def read_table(store: Store, part: Part, columns: list[str] | None = None) -> pl.DataFrame:
    """Read a table part, mapped where it is large. Raises `ShardCorrupt` where the file is not what was sealed."""
    try:
        return mapped(map(from_arrow, parquet_batches(store.local_path(part.key, part.sha256), columns)))
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, KeyError) as error:
        raise ShardCorrupt(f"{part.key}: {error}") from error


def read_rows(store: Store, part: Part, where: pl.Expr) -> pl.DataFrame:
    """Read the rows of a table part that pass `where`. Raises `ShardCorrupt` where the file is not what was sealed."""
    try:
        return pl.scan_parquet(store.local_path(part.key, part.sha256)).filter(where).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ShardCorrupt(f"{part.key}: {error}") from error


def map_table(store: Store, part: Part, columns: Sequence[str]) -> list[pa.RecordBatch]:
    """Map columns of a table part, in this order, from an uncompressed copy that is already unlinked.

    Raises `ShardCorrupt` where the file is not what was sealed.
    """
    try:
        return map_arrow(parquet_batches(store.local_path(part.key, part.sha256), columns)).to_batches()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ShardCorrupt(f"{part.key}: {error}") from error


def vectors_bytes(content_ids: Sequence[str], vectors: Float32, pieces: Pieces | None = None) -> bytes:
    """Encode (n, dim) vectors as a part with the columns content_id (string) and vector (fixed-size list of float32).

    `pieces` are those of the part that it derives from. Raises `DimensionMismatch` where ids and rows differ in number.
    """
    if vectors.ndim != 2 or len(content_ids) != len(vectors):
        raise DimensionMismatch(f"{len(content_ids)} ids for vectors of shape {vectors.shape}")
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    table = pa.table(
        {
            "content_id": pa.array(content_ids, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        },
        metadata=pieces.metadata if pieces else None,
    )
    return encode_part(table)


def encode_part(table: pa.Table) -> bytes:
    """Encode the rows of a part of vectors, masks or classes; equal tables give equal bytes."""
    options = next(options for column, options in _ENCODINGS.items() if column in table.column_names)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def read_vectors(path: Path) -> tuple[list[str], Float32]:
    """Read the ids and the (n, dim) vectors of a vector part. Raises `ShardCorrupt`."""
    try:
        table = pq.read_table(path)
        column = table["vector"].combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return table["content_id"].to_pylist(), flat.reshape(len(table), column.type.list_size)
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError) as error:
        raise ShardCorrupt(f"{path} is not a vector part: {error}") from error


def read_ids(path: Path) -> list[str]:
    """Read only the content ids of a vector, mask or class part. Raises `ShardCorrupt`."""
    return read_id_column(path).to_list()


def read_id_column(path: Path) -> pl.Series:
    """Return what `read_ids` returns as a column, which takes a third of the memory."""
    try:
        return pl.Series(pq.read_table(path, columns=["content_id"])["content_id"], dtype=pl.String)
    except (pa.ArrowException, OSError) as error:
        raise ShardCorrupt(f"{path} has no readable ids: {error}") from error


def describe_part(store: Store, key: str, n_rows: int) -> Part:
    """Describe a stored file by its bytes."""
    path = store.local_path(key)
    return Part(key=key, sha256=file_sha256(path), n_rows=n_rows, n_bytes=path.stat().st_size)


def masks_bytes(content_ids: Sequence[str], masks: Sequence[Bool], reasons: Sequence[str]) -> bytes:
    """Encode masks as a part: columns content_id, height, width, mask (zlib of packed bits), area (0 to 1) and reason.

    `masks` are (h, w), True on the product; a reason says why a mask is distrusted, "" where it is trusted.
    """
    table = pa.table(
        {
            "content_id": pa.array(content_ids, pa.string()),
            "height": pa.array([mask.shape[0] for mask in masks], pa.int32()),
            "width": pa.array([mask.shape[1] for mask in masks], pa.int32()),
            "mask": pa.array([zlib.compress(np.packbits(mask).tobytes(), 6) for mask in masks], pa.binary()),
            "area": pa.array([float(mask.mean()) for mask in masks], pa.float32()),
            "reason": pa.array(reasons, pa.string()),
        }
    )
    return encode_part(table)


class MaskRow(Value):
    """A stored mask; `array` unpacks its bits."""

    height: int
    width: int
    bits: bytes
    area: float
    reason: str

    def array(self) -> Bool:
        """Return the mask, (height, width), True on the product."""
        packed = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        return np.unpackbits(packed, count=self.height * self.width).reshape(self.height, self.width).astype(bool)


def read_masks(store: Store, mask_set: MaskSet, wanted: Iterable[str]) -> dict[str, MaskRow]:
    """Read those masks of the wanted content ids that the set holds. Raises `ShardCorrupt`."""
    content_ids = set(wanted)
    masks: dict[str, MaskRow] = {}
    for part in mask_set.parts:
        table = read_table(store, part)
        for row in table.filter(pl.col("content_id").is_in(content_ids)).iter_rows(named=True):
            masks[row["content_id"]] = MaskRow(
                height=row["height"], width=row["width"], bits=row["mask"], area=row["area"], reason=row["reason"]
            )
    return masks


def classes_bytes(content_ids: Sequence[str], classes: Int32, probabilities: Float32) -> bytes:
    """Encode classes as a part: columns content_id, classes and probabilities, the likeliest class first.

    `classes` and `probabilities` (0 to 1) are (n, N_TOP_CLASSES), padded with class -1. Raises `DimensionMismatch`
    where ids and rows differ in number.
    """
    shape = (len(content_ids), N_TOP_CLASSES)
    if classes.shape != shape or probabilities.shape != shape:
        raise DimensionMismatch(f"classes {classes.shape}, probabilities {probabilities.shape}; expected twice {shape}")
    columns = {"classes": classes.astype(np.int32), "probabilities": probabilities.astype(np.float32)}
    lists = {name: pa.FixedSizeListArray.from_arrays(v.ravel(), N_TOP_CLASSES) for name, v in columns.items()}
    return encode_part(pa.table({"content_id": pa.array(content_ids, pa.string()), **lists}))


def load_classes(store: Store, class_set: ClassSet, content_ids: Sequence[str] | pl.Series) -> Int32:
    """Load the classes of n content ids in their order, (n, N_TOP_CLASSES), -1 for none. Raises `ShardCorrupt`."""
    wanted = pl.DataFrame({"content_id": content_ids}, schema={"content_id": pl.String})
    known = [read_table(store, part, ["content_id", "classes"]) for part in class_set.parts]
    if not known or wanted.is_empty():
        return np.full((len(wanted), N_TOP_CLASSES), -1, np.int32)
    stored = pl.concat(known).unique("content_id", keep="first")
    classes = wanted.join(stored, on="content_id", how="left", maintain_order="left")["classes"]
    return classes.fill_null([-1] * N_TOP_CLASSES).cast(pl.Array(pl.Int32, N_TOP_CLASSES)).to_numpy()


def iter_vectors(store: Store, vector_set: VectorSet) -> Iterator[tuple[list[str], Float32]]:
    """Yield the ids and the (n, dim) vectors of a set, part by part."""
    for part in vector_set.parts:
        yield read_vectors(store.local_path(part.key, part.sha256))


def load_vectors(store: Store, vector_set: VectorSet, content_ids: Sequence[str] | pl.Series) -> Float32:
    """Load the vectors of n content ids in their order, (n, dim). Raises `ShardCorrupt` where the set lacks one."""
    vectors = np.empty((len(content_ids), vector_set.dim), np.float32)
    for positions, of_part in vectors_by_part(store, vector_set, content_ids):
        vectors[positions] = of_part
    return vectors


def vectors_by_part(
    store: Store, vector_set: VectorSet, content_ids: Sequence[str] | pl.Series
) -> Iterator[tuple[Int64, Float32]]:
    """Yield the vectors of n content ids, part by part: (m,) ascending positions in `content_ids`, and (m, dim).

    Each position comes once. A part's vectors are read only if its ids show that it is needed. Raises `ShardCorrupt`
    at the end where the set lacks one.
    """
    missing = MissingIds(pl.Series(content_ids, dtype=pl.String))
    for part in vector_set.parts:
        if missing.is_missing.any():
            path = store.local_path(part.key, part.sha256)
            positions, rows = missing.take(read_id_column(path))
            if len(positions):
                yield positions, read_vectors(path)[1][rows]
    missing.check_none(vector_set.key)
