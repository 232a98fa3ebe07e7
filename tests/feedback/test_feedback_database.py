"""The database itself: migrations, durability settings, full disks, and two services at once."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from feedback_rig import make_segment
from sqlalchemy import event, inspect, text

from services.common.errors import DataCorrupted, InvalidConfig, PreconditionFailed, Unavailable
from services.common.server.bootstrap import GrpcServer, ServerOptions, Service
from services.feedback import segments
from services.feedback.clip_store import ClipStore
from services.feedback.convert import uploaded_segment
from services.feedback.core import FeedbackCore
from services.feedback.database import Database
from services.feedback.preferences import Judgement
from services.feedback.schema import Base, Choice, Pair
from services.feedback.servicer import FeedbackServicer
from tutelage.v1 import feedback_pb2 as pb
from tutelage.v1.feedback_pb2_grpc import (
    FeedbackServiceStub,
    add_FeedbackServiceServicer_to_server,
)

ROOM_PAGES = 40


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path}/labels.db")
    yield opened
    opened.close()


def make_core(database: Database, clips: Path) -> FeedbackCore:
    return FeedbackCore(database, ClipStore(str(clips)), 0.25)


@pytest.fixture
def core(database: Database, tmp_path: Path) -> FeedbackCore:
    return make_core(database, tmp_path / "clips")


@pytest.fixture
async def stub(core: FeedbackCore) -> AsyncIterator[FeedbackServiceStub]:
    servicer = FeedbackServicer(core, goal=200)
    service = Service(
        "tutelage.v1.FeedbackService",
        lambda server: add_FeedbackServiceServicer_to_server(servicer, server),
    )
    server = GrpcServer([service], ServerOptions("127.0.0.1:0", grace_s=0))
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield FeedbackServiceStub(channel)
    await server.stop()
    servicer.close()


def test_migrations_make_the_tables_the_models_describe(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_constraints_are_named_alike(database: Database, tmp_path: Path) -> None:
    with database.engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            made = {str(c["name"]) for c in inspect(connection).get_unique_constraints(table.name)}
            made |= {str(c["name"]) for c in inspect(connection).get_foreign_keys(table.name)}
            wanted = {str(c.name) for c in table.constraints if not str(c.name).startswith("pk_")}
            assert made == wanted


def test_sqlite_is_set_to_lose_nothing(database: Database) -> None:
    with database.engine.connect() as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }


def test_a_database_of_a_newer_release_is_left_alone(database: Database, tmp_path: Path) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(PreconditionFailed, match="another release"):
        Database(f"sqlite:///{tmp_path}/labels.db")


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "labels.db").write_bytes(b"this is not a database, not at all" * 100)
    with pytest.raises(Unavailable, match="not a database"):
        Database(f"sqlite:///{tmp_path}/labels.db")


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(InvalidConfig, match="TUTELAGE_DATABASE_URL"):
        Database("mysql+nothing://host/labels")


async def judge_until_refused(stub: FeedbackServiceStub) -> None:
    for number in range(1000):
        shown = await stub.NextPair(pb.NextPairRequest(policy="cartpole", labeler="ann"))
        await stub.SubmitPreference(
            pb.SubmitPreferenceRequest(
                pair_id=shown.pair.pair_id,
                labeler="ann",
                choice=pb.CHOICE_LEFT,
                request_id="x" * 100 + str(number),
            )
        )


def number_of_rows(database: Database, table: str) -> int:
    with database.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


async def test_a_full_disk_loses_the_label_and_says_so(
    core: FeedbackCore, database: Database, stub: FeedbackServiceStub
) -> None:
    uploads = [make_segment("cartpole", episode) for episode in range(60)]
    await stub.UploadSegments(pb.UploadSegmentsRequest(segments=uploads))
    with database.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()

    @event.listens_for(database.engine, "begin")
    def _small_disk(connection: object) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + ROOM_PAGES}")

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await judge_until_refused(stub)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the disk that holds the labels is full: nothing was saved" in raised.value.details()
    progress = await stub.GetProgress(pb.GetProgressRequest(policy="cartpole"))
    assert progress.left > 0
    assert progress.left == number_of_rows(database, "preferences")


async def test_a_full_disk_keeps_no_part_of_an_upload(
    stub: FeedbackServiceStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = pb.UploadSegmentsRequest(segments=[make_segment("cartpole", 1)])

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.UploadSegments(request)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "no space left" in raised.value.details()
    assert not [path for path in (tmp_path / "clips").rglob("*") if path.is_file()]
    assert (await stub.GetProgress(pb.GetProgressRequest())).segments == 0
    assert (await stub.UploadSegments(request)).created == 1


def test_a_damaged_clip_is_not_handed_out(core: FeedbackCore, tmp_path: Path) -> None:
    segment = uploaded_segment(make_segment("cartpole", 1))
    core.upload([segment])
    (path,) = (tmp_path / "clips").rglob("*.mp4")
    path.write_bytes(segment.clip[:-1])
    with pytest.raises(DataCorrupted, match="damaged"):
        core.clip(segment.segment_id)
    path.unlink()
    with pytest.raises(DataCorrupted, match="missing"):
        core.clip(segment.segment_id)


def test_clips_lie_in_any_fsspec_file_system(database: Database) -> None:
    core = FeedbackCore(database, ClipStore("memory://clips"), 0.25)
    segment = uploaded_segment(make_segment("cartpole", 1))
    core.upload([segment])
    assert core.clip(segment.segment_id) == segment.clip


def test_an_episode_stays_on_its_side_when_the_share_changes(database: Database) -> None:
    first = uploaded_segment(make_segment("cartpole", 1, start=0))
    later = uploaded_segment(make_segment("cartpole", 1, start=8))
    database.run(lambda session: segments.add(session, [first], 0.0))
    database.run(lambda session: segments.add(session, [later], 0.9999))
    sides = database.run(
        lambda session: [segments.get(session, s.segment_id).split for s in (first, later)]
    )
    assert sides == ["train", "train"]


def test_a_task_of_few_episodes_has_held_out_pairs_too(core: FeedbackCore) -> None:
    core.upload([uploaded_segment(make_segment("cartpole", number)) for number in range(8)])
    splits = [judged(core, Choice.LEFT).split for _ in range(4)]
    assert sorted(splits) == ["held_out", "train", "train", "train"]


def judged(core: FeedbackCore, choice: Choice) -> Pair:
    pair = core.next_pair("cartpole", "ann").pair
    core.submit(Judgement(pair.pair_id, "ann", choice))
    return pair


def test_the_same_segments_and_labels_give_the_same_pairs(tmp_path: Path) -> None:
    uploaded = [uploaded_segment(make_segment("cartpole", number)) for number in range(20)]
    drawn = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        database = Database(f"sqlite:///{folder}/labels.db")
        core = make_core(database, folder / "clips")
        core.upload(uploaded)
        pairs = [judged(core, Choice.LEFT if n % 3 else Choice.TIE) for n in range(30)]
        drawn.append([(p.left_segment_id, p.right_segment_id, p.split) for p in pairs])
        database.close()
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 30


def test_what_wins_comes_back_more_often(core: FeedbackCore) -> None:
    core.upload([uploaded_segment(make_segment("cartpole", number)) for number in range(40)])
    shown: Counter[str] = Counter()
    for _ in range(120):
        pair = core.next_pair("cartpole", "ann").pair
        left, right = pair.left_segment_id, pair.right_segment_id
        shown.update((left, right))
        better = Choice.LEFT if left > right else Choice.RIGHT
        core.submit(Judgement(pair.pair_id, "ann", better))
    ranked = sorted(shown)  # by what the labeler likes, worst first
    worst, best = (sum(shown[i] for i in part) for part in (ranked[:10], ranked[-10:]))
    assert best > 1.5 * worst


def test_two_services_on_one_database_count_a_judgement_once(
    core: FeedbackCore, database: Database, tmp_path: Path
) -> None:
    core.upload([uploaded_segment(make_segment("cartpole", episode)) for episode in range(20)])
    pair = core.next_pair("cartpole", "ann").pair
    duplicates: list[bool] = []

    # Opened one after the other: migrations are for one thread of a process at a time.
    others = [Database(f"sqlite:///{tmp_path}/labels.db") for _ in range(4)]

    def judge(number: int) -> None:
        judgement = Judgement(pair.pair_id, "ann", Choice.LEFT, request_id=f"tab-{number}")
        duplicates.append(make_core(others[number], tmp_path / "clips").submit(judgement)[2])

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert sorted(duplicates) == [False, True, True, True]
    assert core.progress("cartpole", "ann").labels[Choice.LEFT] == 1
