"""A replay as a Parquet file, so that experience can leave and enter.

A file row is a row of the replay: a state, and what was done in it. The rows of a stretch of
an episode follow each other, with the state that was reached last at its end (`kind` 1, which
has a state only). Arrays are lists of fixed size, in C order. The replay's schema is kept in the
file's metadata, as JSON under the key `tutelage.replay`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from services.common.durable import explain_full_disk
from services.common.errors import DataCorrupted, InvalidInput, NotFound, PreconditionFailed
from services.common.parquet import column, column_type, pyarrow
from services.common.replay.producer import ReplayProducer
from services.common.replay.schema import CLOSING, STEP, ReplaySchema, Rows
from services.common.replay.store import ReplayStore
from services.common.replay.stretches import cut, read_rows, stretches
from services.common.replay.wellformed import first_fault

METADATA = b"tutelage.replay"
EXTRA = "datasets"
GROUP_BYTES = 16 << 20
CHUNK_BYTES = 4 << 20
MOST_STEPS = 1024


@dataclass(frozen=True)
class Counts:
    """What has left or entered: steps, and the stretches of episodes they are in."""

    steps: int
    stretches: int


def export_parquet(store: ReplayStore, path: Path) -> Counts:
    """Write all steps of a replay to a file, which is there whole or not at all.

    Raises:
        ReplayUnavailable: when Redis does not answer.
        StorageFull: when the disk is full.
        PreconditionFailed: without pyarrow, or when the file cannot be written.
    """
    pa, pq = pyarrow(EXTRA)
    schema = store.schema
    columns = pa.schema(
        [pa.field(n, column_type(pa, schema.dtype[n])) for n in schema.dtype.names or ()],
        metadata={METADATA: schema.to_json()},
    )
    count = steps = 0
    aside = path.with_name(path.name + ".part")
    try:
        with explain_full_disk(path), pq.ParquetWriter(aside, columns, compression="zstd") as file:
            for group in _groups(schema, all_stretches(store)):
                file.write_table(_table(pa, columns, group))
                count += int((group["kind"] == CLOSING).sum())
                steps += int((group["kind"] == STEP).sum())
        _sync(aside)
        os.replace(aside, path)
    except OSError as error:
        raise PreconditionFailed(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        aside.unlink(missing_ok=True)
    return Counts(steps, count)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def all_stretches(store: ReplayStore) -> Iterator[Rows]:
    """The stretches of all shards; see `stretches`."""
    for shard in store.shards:
        yield from stretches(store.schema, read_rows(store.schema, shard))


def stored_schema(path: Path) -> tuple[ReplaySchema, int]:
    """The schema of a file that `export_parquet` wrote, and a capacity that holds all of it.

    Raises:
        NotFound: when there is no such file.
        InvalidInput: when it is no such file.
        PreconditionFailed: without pyarrow.
    """
    pa, pq = pyarrow(EXTRA)
    if not path.exists():
        raise NotFound(f"there is no file {path}")
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInput(f"{path} is not a Parquet file: {error}") from None
    text = (metadata.metadata or {}).get(METADATA)
    if text is None:
        raise InvalidInput(f"{path} was not written by `tutelage replay export`: no schema in it")
    try:
        schema = ReplaySchema.from_json(text.decode())
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: its schema cannot be read: {error}") from None
    return schema, capacity_for(schema, metadata.num_rows)


def import_parquet(path: Path, store: ReplayStore) -> Counts:
    """Append all of a file to a replay of its schema.

    Raises:
        InvalidInput: when the replay has another schema.
        DataCorrupted: when the file's rows are not whole stretches; those before are appended.
        ReplayUnavailable, StorageFull: when Redis does not take them.
    """
    schema, _ = stored_schema(path)
    if schema != store.schema:
        raise InvalidInput(f"{path} holds {schema.dtype}, replay {store.name} {store.schema.dtype}")
    return append_stretches(store, _read(path, schema))


def append_stretches(store: ReplayStore, parts: Iterable[Rows]) -> Counts:
    """Append stretches, cut into fragments and chunks of moderate size."""
    schema = store.schema
    producer = ReplayProducer(store)
    most = _steps_a_fragment(schema)
    waiting: list[Rows] = []
    count = steps = size = 0
    for stretch in parts:
        pieces = cut(schema, stretch, most)
        count, steps = count + 1, steps + int((stretch["kind"] == STEP).sum())
        for fragment in np.split(pieces, np.flatnonzero(pieces["kind"] == CLOSING)[:-1] + 1):
            if size + len(fragment) > _rows_a_chunk(schema, store.capacity) and waiting:
                producer.append(np.concatenate(waiting))
                waiting, size = [], 0
            waiting.append(fragment)
            size += len(fragment)
    if waiting:
        producer.append(np.concatenate(waiting))
    return Counts(steps, count)


def capacity_for(schema: ReplaySchema, rows: int) -> int:
    """Rows that stretches of so many rows take at most once they are appended."""
    cuts = rows // _steps_a_fragment(schema)
    return max(1, rows + cuts * (1 + schema.history))


def _steps_a_fragment(schema: ReplaySchema) -> int:
    return max(1, min(MOST_STEPS, CHUNK_BYTES // schema.row_bytes))


def _rows_a_chunk(schema: ReplaySchema, capacity: int) -> int:
    return min(capacity, 2 * _steps_a_fragment(schema))


def _groups(schema: ReplaySchema, parts: Iterable[Rows]) -> Iterator[Rows]:
    """Stretches side by side, some MiB at once, for rows of a file come in groups."""
    group: list[Rows] = []
    size = 0
    for part in parts:
        group.append(part)
        size += part.nbytes
        if size >= GROUP_BYTES:
            yield np.concatenate(group)
            group, size = [], 0
    if group:
        yield np.concatenate(group)


def _read(path: Path, schema: ReplaySchema) -> Iterator[Rows]:
    """The stretches in a file."""
    _, pq = pyarrow(EXTRA)
    rest, before = schema.empty(0), 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=max(1, GROUP_BYTES // schema.row_bytes)):
            rows = np.concatenate([rest, _rows(path, schema, batch)])
            _check(path, schema, rows, before)
            ends = np.flatnonzero(rows["kind"] == CLOSING) + 1
            yield from np.split(rows, ends)[:-1]
            done = int(ends[-1]) if len(ends) else 0
            rest, before = rows[done:], before + done
    if len(rest):
        raise DataCorrupted(f"{path} ends within a stretch, at row {before + len(rest) - 1}")


def _check(path: Path, schema: ReplaySchema, rows: Rows, before: int) -> None:
    fault = first_fault(schema, rows)
    if fault is None and len(rows) and rows["kind"][0] == CLOSING:
        raise DataCorrupted(f"{path}: row {before} is a closing row without a step before it")
    if fault is not None:
        raise DataCorrupted(f"{path}: row {before + fault.position} {fault.reason}")


def _table(pa: Any, columns: Any, rows: Rows) -> Any:
    arrays = [column(pa, field.type, rows[field.name]) for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


def _rows(path: Path, schema: ReplaySchema, batch: Any) -> Rows:
    rows = schema.empty(batch.num_rows)
    for name in schema.dtype.names or ():
        row = schema.dtype[name]
        if name not in batch.schema.names:
            raise DataCorrupted(f"{path} has no column {name!r}, which its schema says it has")
        values = batch.column(name)
        if row.shape:
            values = values.flatten()
        if values.null_count:
            raise DataCorrupted(f"{path}: column {name!r} has empty cells")
        flat = values.to_numpy(zero_copy_only=False)
        if len(flat) != len(rows) * prod(row.shape):
            raise DataCorrupted(f"{path}: column {name!r} is not of shape {row.shape}")
        rows[name] = flat.reshape(len(rows), *row.shape)
    return rows
