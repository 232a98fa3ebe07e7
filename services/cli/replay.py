"""`tutelage replay`: what is in the replays, whether it is sound, and ways in and out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from services.common.replay import ReplayStore
    from services.common.replay.connection import Client
    from services.common.replay.dataset import Counts
    from services.common.replay.inspect import Description
    from services.common.replay.limiter import Limits

MINARI = "minari:"

redis_url = click.option(
    "--redis-url",
    metavar="URL",
    help="Redis that holds them. Default: TUTELAGE_REDIS_URL, else that of the data folder.",
)


@click.group()
def replay() -> None:
    """Look at replays, check them, and take data out and in.

    A replay is the experience that runs collect and learn from: steps of episodes, in Redis.
    It is named after its run, and stays when the run has ended. A row is a step, or a state at
    the end of an episode or of what was appended at once; once the replay is full, the oldest
    rows make room for new ones. These commands find the Redis of `tutelage up`, or of the data
    folder when nothing is running; --redis-url or TUTELAGE_REDIS_URL names another.

    \b
    Examples:
      tutelage replay ls
      tutelage replay show cartpole-dqn-20261122-101500-3f2a
      tutelage replay verify cartpole-dqn-20261122-101500-3f2a
      tutelage replay export cartpole-dqn-20261122-101500-3f2a steps.parquet
      tutelage replay import steps.parquet old-steps
      tutelage replay rm old-steps
    """


@replay.command(short_help="List the replays.")
@redis_url
def ls(redis_url: str | None) -> None:
    """List the replays, with how much is in each.

    \b
    Examples:
      tutelage replay ls
      tutelage replay ls --redis-url redis://redis.local:6379/0
    """
    from services.cli.connections import replays
    from services.cli.tables import print_table
    from services.common.replay.inspect import describe
    from services.common.replay.store import list_replays

    with replays(redis_url) as client:
        found = [describe(_open(client, name)) for name in list_replays(client)]
    if not found:
        click.echo("no replays yet; a run makes one: tutelage train cartpole-dqn")
        return
    headings = ("replay", "rows", "full", "size", "oldest", "rows/s", "sampled", "in use")
    print_table(headings, [_row(one) for one in found])


@replay.command(short_help="Show all there is to know of one.")
@click.argument("name")
@redis_url
def show(name: str, redis_url: str | None) -> None:
    """Show all there is to know of the replay NAME, and what a row of it holds."""
    from services.cli.connections import replays
    from services.cli.tables import print_table
    from services.common.replay.inspect import describe

    with replays(redis_url) as client:
        store = _open(client, name)
        found = describe(store)
    for fact, value in _facts(found):
        click.echo(f"{fact:<18} {value}")
    click.echo()
    columns = [
        (field, str(store.schema.dtype[field].base), _shape(store.schema.dtype[field].shape))
        for field in store.schema.dtype.names or ()
    ]
    print_table(("column", "type", "shape"), columns)


@replay.command(short_help="Check every block, row and priority of one.")
@click.argument("name")
@redis_url
def verify(name: str, redis_url: str | None) -> None:
    """Check the replay NAME: every block, every row, every priority.

    Says what was checked. Exit code 1 at a fault, which is told with the row's number (rows
    are counted from 0, the first that was ever appended). A run may go on meanwhile.
    """
    from services.cli.connections import replays
    from services.common.replay.inspect import verify as checks

    faults = 0
    with replays(redis_url) as client:
        for check in checks(client, _open(client, name)):
            faults += bool(check.fault)
            mark = "✗" if check.fault else "✓"
            click.echo(f"{mark} {check.what}" + (f": {check.fault}" if check.fault else ""))
    if faults:
        click.echo(
            f"\n{name} is damaged. A learner would draw wrong batches from it: remove it "
            f"(tutelage replay rm {name}), and let a run collect anew."
        )
        raise SystemExit(1)
    click.echo(f"\n{name} is sound.")


@replay.command(short_help="Remove replays for good.")
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also where a run is writing to it.")
@redis_url
def rm(names: tuple[str, ...], yes: bool, force: bool, redis_url: str | None) -> None:
    """Remove the replays NAMES with all of their rows. This cannot be undone.

    Refuses while somebody is writing to one: a run that lost its replay would have to begin
    collecting again. To keep the data, `tutelage replay export` them first.

    \b
    Examples:
      tutelage replay rm cartpole-dqn-20261122-101500-3f2a
      tutelage replay rm --yes old-steps older-steps
    """
    from services.cli.connections import replays
    from services.common.errors import PreconditionFailed
    from services.common.replay.inspect import ACTIVE_S, describe

    with replays(redis_url) as client:
        stores = [_open(client, name) for name in names]
        found = [describe(store) for store in stores]
        for one in found:
            if one.producers and not force:
                raise PreconditionFailed(
                    f"replay {one.name} is in use: {_producers(one)} wrote to it in the last "
                    f"{ACTIVE_S:.0f} s; stop the run first (tutelage runs), or say --force"
                )
        if not yes:
            for one in found:
                click.echo(f"{one.name}: {one.rows:,} rows, {_size(one.bytes)}")
            click.confirm("Remove for good?", abort=True)
        for store in stores:
            store.remove()
            click.echo(f"{store.name} is removed")


@replay.command(short_help="Write one to a Parquet file or a Minari dataset.")
@click.argument("name")
@click.argument("file")
@redis_url
def export(name: str, file: str, redis_url: str | None) -> None:
    """Write the steps of the replay NAME to FILE, a Parquet file, episode by episode.

    A file row is a state and what was done in it; the last row of an episode's stretch (kind
    1) is only the state that was reached. With minari:ID in place of FILE it becomes a local
    Minari dataset.

    \b
    Examples:
      tutelage replay export cartpole-dqn-20261122-101500-3f2a steps.parquet
      tutelage replay export cartpole-dqn-20261122-101500-3f2a minari:cartpole/dqn-v0
    """
    from services.cli.connections import replays
    from services.common.replay.dataset import export_parquet

    with replays(redis_url) as client:
        store = _open(client, name)
        if file.startswith(MINARI):
            from services.cli.minari_dataset import export_minari

            counts = export_minari(store, file.removeprefix(MINARI))
        else:
            counts = export_parquet(store, Path(file))
    click.echo(f"{file}: {_counted(counts)}")


@replay.command("import", short_help="Make one of such a file or dataset.")
@click.argument("file")
@click.argument("name")
@click.option(
    "--capacity",
    type=click.IntRange(min=1),
    metavar="ROWS",
    help="Rows the replay holds. Default: as many as the file needs.",
)
@redis_url
def import_(file: str, name: str, capacity: int | None, redis_url: str | None) -> None:
    """Make a new replay NAME of a FILE that `tutelage replay export` wrote.

    minari:ID in place of FILE takes a local Minari dataset. A run learns from such a replay
    when it is told its name and capacity.

    \b
    Examples:
      tutelage replay import steps.parquet old-steps
      tutelage replay import minari:D4RL/door/human-v2 door
      tutelage replay import --capacity 50000 steps.parquet start
      tutelage train cartpole-dqn --set replay.name=start --set replay.capacity=50000
    """
    from services.cli.connections import replays
    from services.common.errors import AlreadyExists
    from services.common.replay.dataset import (
        append_stretches,
        capacity_for,
        import_parquet,
        stored_schema,
    )
    from services.common.replay.store import ReplayStore, list_replays

    dataset = None
    if file.startswith(MINARI):
        from services.cli.minari_dataset import open_minari

        dataset = open_minari(file.removeprefix(MINARI))
        schema, needed = dataset.schema, capacity_for(dataset.schema, dataset.rows)
    else:
        schema, needed = stored_schema(Path(file))
    with replays(redis_url, create=True) as client:
        if name in list_replays(client):
            raise AlreadyExists(
                f"there is a replay {name!r} already; choose another name, or remove it with: "
                f"tutelage replay rm {name}"
            )
        store = ReplayStore(client, name, schema, capacity or needed)
        try:
            if dataset is not None:
                counts = append_stretches(store, dataset.stretches())
            else:
                counts = import_parquet(Path(file), store)
        except BaseException:
            store.remove()  # a part of a file would pass for the whole
            raise
    click.echo(f"{name}: {_counted(counts)}, capacity {store.capacity:,} rows")


def _open(client: Client, name: str) -> ReplayStore:
    """The replay of this name; NotFound names those there are."""
    from services.common.errors import NotFound
    from services.common.replay.store import ReplayStore, list_replays

    try:
        return ReplayStore.open_existing(client, name)
    except NotFound:
        there = ", ".join(list_replays(client)) or "none"
        raise NotFound(f"no replay {name!r}; there are: {there}") from None


def _row(one: Description) -> tuple[str, ...]:
    return (
        one.name,
        f"{one.rows:,}",
        f"{one.rows / one.capacity:.0%}",
        _size(one.bytes),
        _age(one.oldest_age_s),
        f"{one.rows_per_s:,.0f}" if one.producers else "",
        _ratio(one),
        _producers(one) if one.producers else "",
    )


def _facts(one: Description) -> list[tuple[str, str]]:
    facts = [
        ("replay", one.name),
        ("rows", f"{one.rows:,} of {one.capacity:,}, {one.appended:,} ever appended"),
        ("steps", f"{one.inserted:,} ever appended"),
        ("row", f"{one.row_bytes:,} bytes"),
        ("size", f"{_size(one.bytes)} in Redis"),
        ("shards", str(one.shards)),
        ("oldest row", _age(one.oldest_age_s)),
        ("appended", f"{one.rows_per_s:,.1f} rows/s of late"),
        ("each step sampled", _ratio(one)),
        ("limits", _limits(one.limits)),
        ("waits", f"{one.waits:,} chunks were told to wait" if one.waits else ""),
        ("learner behind", "" if one.behind is None else f"{one.behind:,} rows"),
        ("in use", _producers(one) if one.producers else "no"),
    ]
    return [(name, value) for name, value in facts if value]


def _limits(limits: Limits | None) -> str:
    if limits is None:
        return ""
    return (
        f"{limits.samples_per_insert:g} samples a step, from {limits.min_size:,} steps on, "
        f"give or take {limits.error_buffer:,.0f} samples"
    )


def _producers(one: Description) -> str:
    count = one.producers
    return f"{count} producer{'s' if count != 1 else ''}"


def _ratio(one: Description) -> str:
    return "" if one.sample_ratio is None else f"{one.sample_ratio:.1f} times"


def _counted(counts: Counts) -> str:
    plural = "es" if counts.stretches != 1 else ""
    return f"{counts.steps:,} steps in {counts.stretches:,} episode stretch{plural}"


def _size(size: int) -> str:
    value = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.0f} {unit} old"
    return f"{seconds:.0f} s old"


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
