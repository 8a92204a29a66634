"""Stores in trouble in mid-campaign, of either kind: one clear line, nothing lost, and `resume` goes on."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event

from evaluators.pools.serial import SerialPool
from search.store import Store, check_store
from spaces.errors import StoreError
from spaces.messages import Outcome, Record
from tests.postgres import Server
from tests.test_campaign import WORKLOAD, agree, new_campaign, run, undisturbed

Trouble = Callable[[Store, str], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def reference() -> list[Record]:
    return undisturbed()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_database())


class Interfering(SerialPool):
    """Calls a function before its twelfth outcome."""

    def __init__(self, interfere: Callable[[], object]) -> None:
        super().__init__(WORKLOAD)
        self._interfere = interfere
        self._left = 12

    def completed(self, timeout: float | None = None) -> list[Outcome]:
        self._left -= 1
        if not self._left:
            self._interfere()
        return super().completed()


@contextlib.contextmanager
def full_disk(store: Store, url: str) -> Iterator[None]:
    """SQLite may add no page; PostgreSQL's server says what it says on a full disk."""
    if url.startswith("sqlite"):
        store._engine.dispose()

        @event.listens_for(store._engine, "checkout")
        def no_more_pages(connection, *_: object) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

        yield
        event.remove(store._engine, "checkout", no_more_pages)
        store._engine.dispose()
        return
    with other_connection(url) as connection:
        connection.exec_driver_sql(
            """CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'could not extend file "base/1/2": No space left on device' USING ERRCODE = '53100';
            END $$; CREATE TRIGGER no_space BEFORE INSERT ON trials EXECUTE FUNCTION no_space()"""
        )
        yield
        connection.exec_driver_sql("DROP TRIGGER no_space ON trials")


@contextlib.contextmanager
def locked(store: Store, url: str) -> Iterator[None]:
    """Another program holds all there is."""
    del store
    with other_connection(url) as connection:
        if url.startswith("sqlite"):
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            yield
            connection.exec_driver_sql("ROLLBACK")
        else:
            connection.exec_driver_sql("BEGIN; LOCK TABLE campaigns, trials IN EXCLUSIVE MODE")
            yield
            connection.exec_driver_sql("ROLLBACK")


@contextlib.contextmanager
def other_connection(url: str):
    """Somebody else's connection, whose statements stand for themselves."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("trouble", "says"),
    [(full_disk, "the disk is full; what was stored before is safe"), (locked, "is locked")],
)
def test_a_store_in_trouble_loses_nothing(
    url: str, trouble: Trouble, says: str, reference: list[Record]
) -> None:
    with Store(url, timeout_s=0.2) as store, contextlib.ExitStack() as stack:
        campaign = new_campaign(store)
        pool = Interfering(lambda: stack.enter_context(trouble(store, url)))
        with pytest.raises(StoreError, match=says) as caught:
            run(campaign, pool)
        stack.close()
        assert re.search(r"record \d+ of campaign \S+ was not stored", str(caught.value))
        assert "\n" not in str(caught.value)
        stored = store.records(campaign.id)
        assert 11 <= len(stored) < 30  # a page may have had some room left
        assert agree(stored, reference[: len(stored)])
        again = new_campaign(store, campaign_id=campaign.id)
        assert agree(run(again, SerialPool(WORKLOAD)), reference)


def one_of_two(url: str, seed: int) -> str:
    with Store(url) as store:
        campaign = new_campaign(store, seed=seed)
        run(campaign, SerialPool(WORKLOAD))
        return campaign.id


def test_two_campaigns_write_at_once_and_find_what_each_alone_finds(
    url: str, reference: list[Record]
) -> None:
    """Each may reuse what the other has found by then, which must make no difference."""
    alone = {0: reference, 1: undisturbed(seed=1)}
    with ThreadPoolExecutor(2) as both, Store(url) as store:
        ids = list(both.map(one_of_two, [url, url], alone))
        for seed, campaign_id in enumerate(ids):
            assert agree(store.records(campaign_id), alone[seed])


def test_lost_connections_are_made_again(postgres: Server, reference: list[Record]) -> None:
    database = postgres.new_database()

    def cut() -> None:
        with postgres.connect() as other:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            assert other.execute(query, [database]).fetchall()

    with Store(postgres.url(database)) as store:
        assert agree(run(new_campaign(store), Interfering(cut)), reference)


def test_processes_may_make_the_same_store(postgres: Server) -> None:
    url = postgres.url(postgres.new_database())
    code = f"from search.store import Store; Store({url!r}).close()"
    all_of_them = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in all_of_them]
    assert [process.returncode for process in all_of_them] == [0, 0, 0], errors
    check_store(url)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("a%26b%3Ac%2Fd", "wrong"), "the server refuses this user or password"),
        ((":a%26b%3Ac%2Fd@", "@"), "the server wants a password; put it into ~/.pgpass"),
        (("/db_", "/nothing_"), 'database "nothing_'),
    ],
)
def test_a_server_that_refuses(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], says: str
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    url = postgres.url(postgres.new_database()).replace(*change)
    for act in (Store, check_store):
        with pytest.raises(StoreError, match=says) as caught:
            act(url)
        assert "\n" not in str(caught.value)
        assert "a&b:c/d" not in str(caught.value)
        assert "wrong" not in str(caught.value)


def test_a_server_that_ends_is_named() -> None:
    from tests.postgres import running_server

    with running_server() as server:
        url = server.url(server.new_database())
        store = Store(url)
        campaign = new_campaign(store)
    with pytest.raises(StoreError, match=r"no PostgreSQL answers there|the server is gone"):
        run(campaign, SerialPool(WORKLOAD))
    store.close()
