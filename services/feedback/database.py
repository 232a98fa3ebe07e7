"""The database: how it is opened, brought up to date, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session

from services.common.durable import explain_full_disk
from services.common.errors import (
    InvalidConfig,
    PreconditionFailed,
    StorageFull,
    TutelageError,
    Unavailable,
)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 5_000
POSTGRES_DISK_FULL = "53100"
ATTEMPTS = 3

T = TypeVar("T")


class Database:
    """Runs pieces of work, each in one transaction that is on disk before its result is given."""

    def __init__(self, url: str) -> None:
        """Open the database and migrate it.

        Raises:
            InvalidConfig: when the URL is none, or names a driver that is not installed.
            Unavailable: when the database cannot be opened.
            StorageFull: when its disk is full.
        """
        self.engine = _open(url)
        try:
            migrate(self.engine)
        except DBAPIError as error:
            raise _explained(error) from error

    def run(self, work: Callable[[Session], T]) -> T:
        """Do `work` and commit; on any error nothing of it is kept.

        Work that collides with another process's on a unique key is done again, as it will
        see then what the other one wrote.

        Raises:
            StorageFull: when the disk is full.
            Unavailable: when the database does not answer or stays locked.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with Session(self.engine, expire_on_commit=False) as session, session.begin():
                    return work(session)
            except IntegrityError:
                if attempt == ATTEMPTS:
                    raise
            except DBAPIError as error:
                raise _explained(error) from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
        engine = create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InvalidConfig(f"TUTELAGE_DATABASE_URL: {error}") from None
    if engine.dialect.name == "sqlite":
        if parsed.database:
            folder = Path(parsed.database).parent
            _make_folder(folder)
        event.listen(engine, "connect", _make_sqlite_durable)
        event.listen(engine, "begin", lambda connection: _begin(connection))
    return engine


def _make_folder(folder: Path) -> None:
    try:
        with explain_full_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfig(
            f"cannot make the labels' folder {folder} ({error.strerror}); "
            "set TUTELAGE_DATA_DIR or TUTELAGE_DATABASE_URL to a place that can be written"
        ) from None


def _make_sqlite_durable(connection: sqlite3.Connection, _record: object) -> None:
    # Python's driver would begin transactions by its own rules, not around reads and DDL.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    # Takes the write lock at once: a transaction that reads first could not get it later.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def migrate(engine: Engine) -> None:
    """Bring the tables to the newest revision.

    Raises:
        PreconditionFailed: when a newer release wrote them.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise PreconditionFailed(
                f"the labels' database was written by another release ({error}); "
                "install that release or a newer one"
            ) from None


def _explained(error: DBAPIError) -> TutelageError:
    cause = error.orig
    full = (
        getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        or getattr(cause, "sqlstate", None) == POSTGRES_DISK_FULL
    )
    if full:
        return StorageFull(
            "the disk that holds the labels is full: nothing was saved; free some space and retry"
        )
    return Unavailable(f"the labels' database does not answer ({cause}); try again")
