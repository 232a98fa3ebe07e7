"""Experience leaves a replay as a file and enters another, and is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from replay_rig import SCHEMA, make_rows, steps_of

from services.common.errors import DataCorrupted, InvalidInput, NotFound, PreconditionFailed
from services.common.replay import Field, ReplayProducer, ReplaySchema, ReplayStore
from services.common.replay import dataset as dataset_module
from services.common.replay.dataset import (
    Counts,
    all_stretches,
    append_stretches,
    export_parquet,
    import_parquet,
    stored_schema,
)
from services.common.replay.inspect import verify
from services.common.replay.schema import CLOSING, LEAD, STEP, Rows
from services.common.replay.stretches import cut

FRAMES = ReplaySchema.transitions((3, 2), "uint8", stack=3)
NESTED = ReplaySchema(
    (
        Field("observation.camera", "uint8", (2, 2)),
        Field("observation.joints.0", "float32", (3,)),
        Field("observation.joints.1", "float64"),
        Field("mask", "bool", (4,)),
    ),
    Field("action", "float32", (2,)),
    {"camera": None, "joints": (None, None)},
)


def a_store(client: redis.Redis, name: str, *chunks: Rows, capacity: int = 1000) -> ReplayStore:
    schema = SCHEMA
    if chunks and chunks[0].dtype == FRAMES.dtype:
        schema = FRAMES
    store = ReplayStore(client, name, schema, capacity)
    producer = ReplayProducer(store)
    for chunk in chunks:
        producer.append(chunk)
    return store


def keys(rows: Rows) -> list[tuple[int, int]]:
    return [(int(e), int(s)) for e, s in zip(rows["episode_id"], rows["step"], strict=True)]


def test_episodes_are_put_together_from_fragments_of_several_lanes(
    client: redis.Redis, name: str
) -> None:
    store = a_store(
        client,
        name,
        np.concatenate([make_rows(1, range(3)), make_rows(2, range(2))]),
        np.concatenate([make_rows(1, [3, 4], terminated=4), make_rows(2, [2, 3])]),
        make_rows(2, [4], truncated=4),
        make_rows(3, [0]),
    )
    found = list(all_stretches(store))
    assert [keys(part) for part in found] == [
        [(1, s) for s in range(6)],
        [(2, s) for s in range(6)],
        [(3, 0), (3, 1)],
    ]
    for part in found:
        assert part["kind"].tolist() == [STEP] * (len(part) - 1) + [CLOSING]
        assert part["observation"][:, 0].tolist() == [100 * int(e) + int(s) for e, s in keys(part)]
    assert found[0]["terminated"].tolist() == [False] * 4 + [True, False]


def test_an_episode_that_the_ring_has_begun_to_overwrite_lacks_its_beginning(
    client: redis.Redis, name: str
) -> None:
    store = a_store(client, name, make_rows(1, range(9)), make_rows(2, range(5)), capacity=10)
    found = [keys(part) for part in all_stretches(store)]
    assert found == [[(1, s) for s in range(6, 10)], [(2, s) for s in range(6)]]


def test_what_is_left_of_a_stack_serves_only_as_what_it_reaches_back_to(
    client: redis.Redis, name: str
) -> None:
    store = a_store(client, name, make_rows(1, range(9), schema=FRAMES), capacity=6)
    (found,) = all_stretches(store)
    assert keys(found) == [(1, s) for s in range(4, 10)]
    assert found["kind"].tolist() == [LEAD, LEAD, STEP, STEP, STEP, CLOSING]


def test_a_stretch_is_cut_into_fragments_with_what_their_stacks_need() -> None:
    stretch = make_rows(1, range(5), schema=FRAMES, terminated=4)
    pieces = cut(FRAMES, stretch, 2)
    kinds = "".join("SCL"[kind] for kind in pieces["kind"])
    assert kinds == "SSC" + "LLSSC" + "LLSC"
    assert pieces["step"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert pieces["observation"][:, 0, 0].tolist() == [100 + s for s in pieces["step"]]
    assert pieces["terminated"].tolist() == [False] * 10 + [True, False]


@pytest.mark.parametrize("schema", [SCHEMA, FRAMES])
def test_a_file_holds_all_there_was(
    client: redis.Redis,
    name: str,
    tmp_path: Path,
    schema: ReplaySchema,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset_module, "GROUP_BYTES", 40 * schema.row_bytes)
    monkeypatch.setattr(dataset_module, "MOST_STEPS", 7)
    lanes = [
        [make_rows(e, range(t, t + 5), terminated=49, schema=schema) for t in range(0, 50, 5)]
        for e in range(4)
    ]
    chunks = [np.concatenate(parts) for parts in zip(*lanes, strict=True)]
    store = a_store(client, name, *chunks)
    path = tmp_path / "steps.parquet"
    assert export_parquet(store, path) == Counts(200, 4)
    assert [entry.name for entry in tmp_path.iterdir()] == ["steps.parquet"]

    again, capacity = stored_schema(path)
    assert again == schema
    copy = ReplayStore(client, f"{name}-copy", again, capacity)
    assert import_parquet(path, copy) == Counts(200, 4)
    assert all(not check.fault for check in verify(client, copy))
    before, after = list(all_stretches(store)), list(all_stretches(copy))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_nested_observations_extras_and_arrays_of_actions_come_back(
    client: redis.Redis, name: str, tmp_path: Path
) -> None:
    rows = NESTED.empty(4)
    generator = np.random.default_rng(0)
    for field in (*NESTED.state, NESTED.action):
        values = generator.random((4, *field.shape)) * 9
        rows[field.name] = values > 4 if field.dtype == "bool" else values
    rows["step"], rows["kind"][3], rows["action"][3] = range(4), CLOSING, 0
    store = ReplayStore(client, name, NESTED, 100)
    ReplayProducer(store).append(rows)
    path = tmp_path / "nested.parquet"
    export_parquet(store, path)
    table = pq.read_table(path)
    assert table.column("observation.camera").type == pa.list_(pa.uint8(), 4)
    assert table.column("kind").to_pylist() == [STEP] * 3 + [CLOSING]
    copy = ReplayStore(client, f"{name}-copy", *stored_schema(path))
    import_parquet(path, copy)
    (found,) = all_stretches(copy)
    assert np.array_equal(found, rows)


def test_shards_leave_together(client: redis.Redis, name: str, tmp_path: Path) -> None:
    store = ReplayStore(client, name, SCHEMA, 100, shards=2)
    for shard in range(2):
        ReplayProducer(store, shard).append(make_rows(shard, range(3)))
    path = tmp_path / "steps.parquet"
    assert export_parquet(store, path) == Counts(6, 2)


def test_into_a_smaller_replay_the_newest_go(client: redis.Redis, name: str) -> None:
    store = ReplayStore(client, name, SCHEMA, 20)
    parts = [make_rows(e, range(4), terminated=3) for e in range(10)]
    assert append_stretches(store, parts) == Counts(40, 10)
    found = np.concatenate(list(all_stretches(store)))
    assert set(found["episode_id"].tolist()) == {6, 7, 8, 9}


def test_a_file_that_is_no_replay_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    with pytest.raises(NotFound, match="no file"):
        stored_schema(path)
    path.write_text("not this")
    with pytest.raises(InvalidInput, match="not a Parquet file"):
        stored_schema(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(InvalidInput, match="not written by `tutelage replay export`"):
        stored_schema(path)


def test_a_file_that_was_changed_is_refused(client: redis.Redis, name: str, tmp_path: Path) -> None:
    store = a_store(client, name, make_rows(1, range(4)), make_rows(2, range(4)))
    path = tmp_path / "steps.parquet"
    export_parquet(store, path)
    table = pq.read_table(path)
    copy = ReplayStore(client, f"{name}-copy", SCHEMA, 100)
    for changed, reason in (
        (pa.concat_tables([table.slice(0, 2), table.slice(3)]), "row 2 is step 3 after step 1"),
        (table.slice(0, 8), "ends within a stretch, at row 7"),
        (table.drop_columns(["reward"]), "no column 'reward'"),
    ):
        pq.write_table(changed, path)
        with pytest.raises(DataCorrupted, match=reason):
            import_parquet(path, copy)


def test_a_replay_of_another_schema_does_not_take_it(
    client: redis.Redis, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "steps.parquet"
    export_parquet(a_store(client, name, make_rows(1, range(4))), path)
    other = ReplayStore(client, f"{name}-other", FRAMES, 100)
    with pytest.raises(InvalidInput, match="holds"):
        import_parquet(path, other)


def test_where_it_cannot_be_written_nothing_is_left(
    client: redis.Redis, name: str, tmp_path: Path
) -> None:
    store = a_store(client, name, make_rows(1, range(4)))
    with pytest.raises(PreconditionFailed, match="cannot write"):
        export_parquet(store, tmp_path / "nowhere" / "steps.parquet")
    assert steps_of(np.concatenate(list(all_stretches(store)))).size == 4
