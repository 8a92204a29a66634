"""Opening a database: URLs, SQLite's settings, the schema's version, and errors in one clear line."""

import os
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from search.store import schema
from spaces.errors import StoreError

DEFAULT_URL = "sqlite:///paretoprune.db"

_FORMS = "sqlite:///FILE.db or postgresql://USER@HOST/DATABASE"
_CONNECT_TIMEOUT_S = 10
_ADVISORY_LOCK = "SELECT pg_advisory_xact_lock(731184620)"  # any number that is ours alone
_EXPLAINED = {  # what a driver says -> what it means and the way out
    "locked": "the store is locked by another program; try again when that has ended",
    "lock timeout": "the store is locked by another program; try again when that has ended",
    "database is busy": "the store is locked by another program; try again when that has ended",
    "is full": "the disk is full; what was stored before is safe: make room, then go on with `resume`",
    "No space left": "the disk is full; what was stored before is safe: make room, then go on with `resume`",
    "disk I/O error": "the disk cannot be written or read; check its space and state",
    "not a database": "the file is no SQLite database; name another",
    "malformed": "the database is damaged; restore it from a copy",
    "terminating connection": "the server has ended the connection; go on with `resume` when it is back",
    "server closed the connection": "the server is gone; go on with `resume` when it is back",
    "Connection refused": "no PostgreSQL answers there; start it, or check host and port",
    "password authentication failed": "the server refuses this user or password",
    "no password supplied": "the server wants a password; put it into ~/.pgpass or $PGPASSWORD",
    "unable to open": "the file cannot be opened or written here; check its permissions",
    "readonly": "the file may only be read by you; check its permissions",
}


def open_engine(url: str, *, create: bool, timeout_s: float) -> Engine:
    """Connect to a store, making its tables where there are none and `create` says so.

    Raises:
        StoreError: The URL cannot be parsed or opened, or what is there is no store of this version.
    """
    place = parse_url(url)
    if place.get_backend_name() == "sqlite":
        _check_file(place, create)
    engine = _connectable(place, timeout_s)
    with translated(place, "cannot open it"):
        try:
            _prepare_schema(engine, place, create)
        except BaseException:
            engine.dispose()
            raise
    return engine


def store_option(url: str) -> str:
    """What a command must be told to find this store: nothing where it takes it unasked; no password."""
    unasked = os.environ.get("PARETOPRUNE_STORE", DEFAULT_URL)
    return "" if url == unasked else f" --store {shlex.quote(shown(parse_url(url)))}"


def check_store(url: str) -> None:
    """Refuse a URL that `Store(url)` would refuse, before long work starts. Leaves nothing behind.

    Raises:
        StoreError: As `Store` would.
    """
    place = parse_url(url)
    if place.get_backend_name() == "sqlite":
        if _in_memory(place):
            raise StoreError(f"the store {url!r} is gone when the program ends; write {_FORMS}")
        _check_file(place, create=True)
        if _in_memory(place):
            return
        file = Path(str(place.database))
        if not file.exists():
            _check_can_be_made(file, place)
            return
    engine = _connectable(place, timeout_s=30.0)
    try:
        with translated(place, "cannot open it"), engine.connect() as connection:
            _has_tables(connection, place)
    finally:
        engine.dispose()


def parse_url(url: str) -> URL:
    """The parts of a store's URL.

    Raises:
        StoreError: It is no URL of SQLite or PostgreSQL.
    """
    try:
        place = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreError(f"the store {_hide_password(url)!r} is no database URL; write {_FORMS}") from None
    if place.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StoreError(f"the store {shown(place)} is of an unknown kind {place.drivername!r}; use {_FORMS}")
    if place.drivername == "postgresql":
        place = place.set(drivername="postgresql+psycopg")
    return place


def shown(place: URL) -> str:
    """The URL as messages may show it: no password, and no query, which may hold one."""
    return place.set(query={}).render_as_string(hide_password=True)


def artifact_dir(url: str) -> Path:
    """Where a store's files lie (dense weights, finalised networks); not created here.

    `<stem>-artifacts` beside an SQLite file; else $PARETOPRUNE_ARTIFACTS or ./paretoprune-artifacts.
    """
    place = parse_url(url)
    if place.get_backend_name() == "sqlite" and not _in_memory(place):
        file = Path(str(place.database))
        return file.with_name(f"{file.stem}-artifacts")
    return Path(os.environ.get("PARETOPRUNE_ARTIFACTS") or "paretoprune-artifacts")


@contextmanager
def translated(place: URL, trouble: str) -> Iterator[None]:
    """Database errors as StoreError: one line, no password. Integrity errors pass: they are the caller's."""
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        cause = str(error.orig if isinstance(error, DBAPIError) else error).strip().split("\n")[0]
        reason = next((text for sign, text in _EXPLAINED.items() if sign in cause), cause)
        if place.password:
            reason = reason.replace(str(place.password), "***")
        raise StoreError(f"store {shown(place)}: {trouble}: {reason}") from None


def _in_memory(place: URL) -> bool:
    return place.database in {None, "", ":memory:"}


def _check_file(place: URL, create: bool) -> None:
    """What can be said about an SQLite file before it is opened."""
    if _in_memory(place):
        return
    file = Path(str(place.database))
    if not file.parent.is_dir():
        raise StoreError(f"store {shown(place)}: there is no folder {str(file.parent)!r}; make it first")
    if file.is_dir():
        raise StoreError(f"store {shown(place)}: {str(file)!r} is a folder; name a file in it")
    if not file.exists() and not create:
        raise StoreError(f"there is no store {shown(place)}; `run` makes one; or name one that exists")


def _check_can_be_made(file: Path, place: URL) -> None:
    """Try it: what permissions say and what a file system does are two things."""
    try:
        file.touch(exist_ok=False)
    except OSError as error:
        folder = str(file.parent)
        raise StoreError(
            f"store {shown(place)}: no file can be made in {folder!r}: {error.strerror}"
        ) from None
    file.unlink()


def _connectable(place: URL, timeout_s: float) -> Engine:
    """An engine that has not connected yet."""
    if place.get_backend_name() != "sqlite":
        options = f"{place.query.get('options', '')} -c lock_timeout={int(1000 * timeout_s)}".strip()
        try:
            return create_engine(
                place,
                pool_pre_ping=True,
                connect_args={"options": options, "connect_timeout": _CONNECT_TIMEOUT_S},
            )
        except ImportError as error:
            raise StoreError(
                f"store {shown(place)}: the driver {error.name!r} is not installed; "
                "pip install 'paretoprune[postgres]'"
            ) from None
    settings: dict[str, Any] = {"connect_args": {"timeout": timeout_s}}
    if _in_memory(place):
        settings |= {"poolclass": StaticPool}
        settings["connect_args"]["check_same_thread"] = False
    engine = create_engine(place, **settings)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        _write_ahead(connection, timeout_s)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def _write_ahead(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Switch to the write-ahead log, for which SQLite does not wait while another program opens the file."""
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _prepare_schema(engine: Engine, place: URL, create: bool) -> None:
    """Make the tables of an empty database, or check that those there are of this version."""
    with engine.connect() as connection:
        if create:  # two processes may open a new store at once
            alone = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else _ADVISORY_LOCK
            connection.exec_driver_sql(alone)
        if _has_tables(connection, place):
            return
        if not create:
            raise StoreError(f"store {shown(place)}: there are no campaigns in it; `run` adds the first")
        schema.metadata.create_all(connection)
        connection.execute(insert(schema.schema_version).values(version=schema.VERSION))
        connection.commit()


def _has_tables(connection: Connection, place: URL) -> bool:
    """Whether it is a store of this version already; StoreError if it can never be one."""
    present = set(inspect(connection).get_table_names())
    if schema.schema_version.name in present:
        _check_version(connection, place)
        return True
    if clash := sorted(present & set(schema.metadata.tables)):
        raise StoreError(
            f"store {shown(place)}: its table {clash[0]!r} belongs to another program; "
            "choose another database"
        )
    return False


def _check_version(connection: Connection, place: URL) -> None:
    version = connection.execute(select(schema.schema_version.c.version)).scalar_one()
    if version != schema.VERSION:
        raise StoreError(
            f"store {shown(place)}: it was made by another version of ParetoPrune (schema {version}, "
            f"this one reads {schema.VERSION}); install the newest, or choose another store"
        )


def _hide_password(url: str) -> str:
    """A text that may be a broken URL, without what may be a password."""
    return re.sub(r"(://[^:@/]*):.*@", r"\1:***@", url)
