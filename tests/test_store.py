"""The store: exact, idempotent, safe against kills and full disks, and clear about what is wrong."""

import collections
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from search.store import CampaignEntry, Store, artifact_dir, check_store
from search.store.codec import decode_arrays, decode_record, encode_arrays, encode_record
from spaces.errors import StoreError
from spaces.messages import Outcome, Record, Trial

ENTRY = CampaignEntry(
    name="Breast MNIST",
    config={"budget": {"trials": 60}, "search": {"controller": "nsga2"}},
    fingerprint="f" * 64,
    fingerprints={"data": "d" * 64, "weights": "w" * 64},
    description={"groups": [{"name": "conv1", "units": 64}], "dense": {"auc": 0.9}},
)


def record(number: int, **changes: object) -> Record:
    """A complete record with arrays of 50 cases."""
    rng = np.random.default_rng(number)
    cases = {"loss": rng.random(50, np.float32), "score": rng.random((50, 2), np.float32)}
    outcome = Outcome(number, "complete", {"auc": 0.1 + number / 7}, cases, {"wall_s": 1.5})
    trial = Trial(number, (64, 32, 8 + number % 8), "finetune", 0)
    return replace(Record(trial, outcome, {"flops": 1e9 / 3, "params": 11e6}), **changes)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as store:
        yield store


@pytest.fixture(params=["sqlite", "postgresql"])
def archive(request: pytest.FixtureRequest, url: str) -> Iterator[Store]:
    """A store of either kind, for what both must do."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    with Store(url) as store:
        store.full_url = url
        yield store


# Records


def test_records_come_back_as_they_were_in_number_order(archive: Store) -> None:
    campaign = archive.create(ENTRY)
    written = [record(n) for n in (2, 0, 3, 1)]
    for each in written:
        archive.append(campaign, each)
    with Store(archive.full_url, create=False) as again:
        read = again.records(campaign)
    assert [r.trial.number for r in read] == [0, 1, 2, 3]
    for each in written:
        stored = read[each.trial.number]
        assert stored.agrees_with(each)
        assert stored.outcome.timings == each.outcome.timings
        assert stored.outcome.per_case["score"].dtype == np.float32


def test_records_without_arrays(archive: Store) -> None:
    campaign = archive.create(ENTRY)
    archive.append(campaign, record(0))
    (light,) = archive.records(campaign, per_case=False)
    assert light.outcome.per_case == {}
    assert light.outcome.values == record(0).outcome.values


def test_append_is_idempotent_and_refuses_a_conflict(archive: Store) -> None:
    campaign = archive.create(ENTRY)
    archive.append(campaign, record(3))
    slower = replace(record(3).outcome, timings={"wall_s": 99.0})
    archive.append(campaign, record(3, outcome=slower))  # time is no difference
    assert archive.records(campaign)[0].outcome.timings == {"wall_s": 1.5}

    with pytest.raises(StoreError, match=r"already has another trial under number 3"):
        archive.append(campaign, record(3, trial=replace(record(3).trial, rung="full")))
    better = replace(record(3).outcome, values={"auc": 0.99})
    with pytest.raises(StoreError, match=r"already has another outcome of the same trial under number 3"):
        archive.append(campaign, record(3, outcome=better))
    assert archive.records(campaign)[0].agrees_with(record(3))


def test_failed_records_keep_their_reason(archive: Store) -> None:
    campaign = archive.create(ENTRY)
    failed = Outcome(0, "failed", timings={"wall_s": 1.0}, error="loss is NaN in caf\udce9\0.npz")
    archive.append(campaign, record(0, outcome=failed))
    (read,) = archive.records(campaign)
    assert not read.complete
    assert read.outcome.error == "loss is NaN in caf\\udce9\\0.npz"
    assert np.isnan(read.value("auc"))


NUMBERS = st.dictionaries(st.text(max_size=8), st.floats(), max_size=4)
ARRAYS = st.dictionaries(
    st.text(max_size=8),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    max_size=3,
)


@st.composite
def any_record(draw: st.DrawFn) -> Record:
    number = draw(st.integers(0, 10**6))
    genome = tuple(draw(st.lists(st.integers(0, 4096), max_size=30)))
    trial = Trial(number, genome, draw(st.text(max_size=10)), draw(st.integers(0, 99)))
    outcome = Outcome(
        number,
        draw(st.sampled_from(["complete", "failed"])),
        draw(NUMBERS),
        draw(ARRAYS),
        draw(NUMBERS),
        draw(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    )
    return Record(trial, outcome, draw(NUMBERS))


@given(any_record())
@settings(max_examples=150)
def test_decoding_undoes_encoding(original: Record) -> None:
    row = encode_record(original, "fingerprint")
    decoded = decode_record(row)
    assert decoded.agrees_with(original)
    assert decoded.outcome.error == original.outcome.error
    assert encode_record(decoded, "fingerprint") == row  # equal records give equal bytes
    for name, array in original.outcome.per_case.items():
        assert decoded.outcome.per_case[name].dtype == array.dtype


def test_arrays_are_compressed_only_where_it_pays() -> None:
    noise = np.random.default_rng(0).random(1000)
    assert len(encode_arrays({"loss": noise})) >= noise.nbytes
    flat = np.zeros(1000)
    assert len(encode_arrays({"loss": flat})) < flat.nbytes / 10


def test_objects_are_neither_written_nor_read() -> None:
    with pytest.raises(ValueError, match="hold numbers, not object"):
        encode_arrays({"loss": np.array([{"a": 1}], dtype=object)})
    blob = encode_arrays({"loss": np.zeros(1)})
    with pytest.raises(ValueError, match="hold numbers, not object"):
        decode_arrays(blob.replace(b"<f8", b"|O8"))


@given(st.data())
@settings(max_examples=60)
def test_damaged_arrays_are_noticed(data: st.DataObject) -> None:
    blob = encode_arrays({"loss": np.arange(20.0), "metric": np.zeros(30)})
    assert blob[:1] == b"1"
    with pytest.raises(ValueError, match="damaged arrays"):
        decode_arrays(blob[: data.draw(st.integers(1, len(blob) - 1))])


def test_a_damaged_record_is_named(store: Store, tmp_path: Path) -> None:
    campaign = store.create(ENTRY)
    store.append(campaign, record(4))
    with sqlite3.connect(tmp_path / "store.db") as other:
        other.execute("UPDATE trials SET per_case = substr(per_case, 1, 60)")
    other.close()
    with pytest.raises(StoreError, match=rf"record 4 of campaign {campaign} cannot be read: damaged arrays"):
        store.records(campaign)
    assert len(store.records(campaign, per_case=False)) == 1


# The evaluation cache


def test_find_knows_evaluations_of_every_campaign_by_identity(archive: Store) -> None:
    first, other = archive.create(ENTRY), archive.create(replace(ENTRY, fingerprint="g" * 64))
    archive.append(first, record(5))
    trial = record(5).trial
    found = archive.find(ENTRY.fingerprint, replace(trial, number=99))
    assert found is not None
    assert found.agrees_with(record(5).outcome)
    assert archive.find("g" * 64, trial) is None
    assert archive.find(ENTRY.fingerprint, replace(trial, replicate=1)) is None
    assert archive.find(ENTRY.fingerprint, replace(trial, rung="full")) is None
    assert archive.find(ENTRY.fingerprint, replace(trial, genome=(64, 32, 1))) is None
    archive.append(other, record(5))
    assert archive.find("g" * 64, trial) is not None


def test_find_overlooks_failures(archive: Store) -> None:
    campaign = archive.create(ENTRY)
    archive.append(campaign, record(0, outcome=Outcome(0, "failed", error="worker lost")))
    assert archive.find(ENTRY.fingerprint, record(0).trial) is None


# Campaigns


def test_a_campaign_comes_back_as_it_was_described(archive: Store) -> None:
    campaign_id = archive.create(ENTRY)
    row = archive.campaign(campaign_id)
    assert campaign_id.startswith("breast-mnist-")
    assert (row.name, row.config, row.fingerprint, row.fingerprints, row.description) == (
        ENTRY.name,
        ENTRY.config,
        ENTRY.fingerprint,
        ENTRY.fingerprints,
        ENTRY.description,
    )
    assert row.status == "running"
    assert abs(datetime.now(UTC) - row.created) < timedelta(minutes=1)


def test_campaigns_are_listed_oldest_first_with_their_trials(archive: Store) -> None:
    assert archive.campaigns() == []
    ids = [archive.create(replace(ENTRY, name=name)) for name in ("b", "a", "c")]
    archive.append(ids[1], record(0))
    archive.append(ids[1], record(1))
    assert [(row.id, row.n_trials) for row in archive.campaigns()] == [(ids[0], 0), (ids[1], 2), (ids[2], 0)]


def test_campaigns_are_found_by_unique_prefix(archive: Store) -> None:
    breast, lesion = archive.create(ENTRY), archive.create(replace(ENTRY, name="lesion"))
    assert archive.campaign("breast").id == breast
    assert archive.campaign(lesion[:-2]).id == lesion
    second = archive.create(ENTRY)
    with pytest.raises(StoreError, match=f"several campaigns: {min(breast, second)}, {max(breast, second)}"):
        archive.campaign("breast")
    assert archive.campaign(breast).id == breast
    with pytest.raises(StoreError, match=f"no campaign 'lesoin-{lesion[-4:]}' .*did you mean '{lesion}'"):
        archive.campaign(f"lesoin-{lesion[-4:]}")


def test_an_empty_store_says_so(archive: Store) -> None:
    with pytest.raises(StoreError, match=r"no campaign 'x' .*it has none yet"):
        archive.campaign("x")


def test_status_configuration_and_description_can_change(archive: Store) -> None:
    campaign = archive.create(ENTRY)
    archive.set_status(campaign, "interrupted")
    archive.update_config(campaign, {"budget": {"trials": 100}})
    archive.update_description(campaign, {"dense": {"auc": 0.8}})
    row = archive.campaign(campaign)
    assert (row.status, row.config) == ("interrupted", {"budget": {"trials": 100}})
    assert row.description == {"dense": {"auc": 0.8}}
    with pytest.raises(StoreError, match="no status 'finished'"):
        archive.set_status(campaign, "finished")  # type: ignore[arg-type]  # the wrong value is the test


@pytest.mark.parametrize("name", ["Ünïcode / näme", "...", "x" * 300, "Robert'); DROP TABLE trials;--"])
def test_ids_are_easy_to_type_whatever_the_name(archive: Store, name: str) -> None:
    campaign = archive.create(replace(ENTRY, name=name))
    assert set(campaign) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(campaign) <= 45
    assert archive.campaign(campaign).name == name


def test_unknown_campaigns_are_refused_everywhere(archive: Store) -> None:
    archive.create(ENTRY)
    for act in (
        lambda: archive.append("nobody", record(0)),
        lambda: archive.records("nobody"),
        lambda: archive.set_status("nobody", "failed"),
        lambda: archive.update_config("nobody", {}),
        lambda: archive.open_test("nobody", [1], "t" * 64),
    ):
        with pytest.raises(StoreError, match="no campaign 'nobody'"):
            act()


def test_openings_of_the_test_split_are_counted_for_the_data(archive: Store) -> None:
    one, two = archive.create(ENTRY), archive.create(ENTRY)
    elsewhere = archive.create(replace(ENTRY, fingerprints={"data": "other"}))
    assert archive.open_test(one, [3, 7], "d" * 64) == 1
    assert archive.open_test(two, [], "d" * 64) == 2
    assert archive.open_test(elsewhere, [1], "e" * 64) == 1
    openings = archive.openings("d" * 64)
    assert [(o.campaign_id, o.points) for o in openings] == [(one, (3, 7)), (two, ())]


# Several users


def test_threads_and_stores_write_side_by_side(url: str) -> None:
    with Store(url) as store:
        campaigns = [store.create(ENTRY) for _ in range(4)]

        def fill(campaign: str) -> None:
            with Store(url) as mine:
                for n in range(25):
                    mine.append(campaign, record(n))

        threads = [threading.Thread(target=fill, args=(campaign,)) for campaign in campaigns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [len(store.records(campaign)) for campaign in campaigns] == [25] * 4


def test_two_processes_may_make_the_same_store(url: str) -> None:
    code = f"from search.store import Store; Store({url!r}).close()"
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors


def test_a_locked_store_is_named(store: Store, url: str, tmp_path: Path) -> None:
    campaign = store.create(ENTRY)
    other = sqlite3.connect(tmp_path / "store.db")
    other.execute("BEGIN EXCLUSIVE")
    with (
        Store(url, create=False, timeout_s=0.05) as hasty,
        pytest.raises(StoreError, match=r"record 0 .* was not stored: the store is locked"),
    ):
        hasty.append(campaign, record(0))
    other.rollback()
    other.close()
    store.append(campaign, record(0))


# Crashes and full disks

APPENDER = """
import sys
sys.path.insert(0, {folder!r})
from test_store import ENTRY, record
from search.store import Store
store = Store({url!r})
campaign = store.create(ENTRY)
print(campaign, flush=True)
for n in range(100_000):
    store.append(campaign, record(n))
    print(n, flush=True)
"""


@pytest.mark.parametrize("lines", [2, 40])
def test_every_acknowledged_record_survives_kill_9(url: str, lines: int) -> None:
    code = APPENDER.format(folder=str(Path(__file__).parent), url=url)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    campaign = process.stdout.readline().strip()
    acknowledged = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    last = max(int(line) for line in acknowledged if line.endswith("\n"))
    with Store(url, create=False) as store:
        read = store.records(campaign)
        assert len(read) in (last + 1, last + 2)  # one may be stored that could not be acknowledged
        assert all(r.agrees_with(record(n)) for n, r in enumerate(read))
        store.append(campaign, record(len(read)))


def test_a_full_disk_loses_nothing_but_the_record(store: Store) -> None:
    campaign = store.create(ENTRY)
    store.append(campaign, record(0))
    with store._engine.connect() as connection:  # the pool hands this connection out again
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError) as caught:
        collections.deque((store.append(campaign, record(n)) for n in range(1, 100)), maxlen=0)
    stored = len(store.records(campaign))
    assert 1 < stored < 100
    assert f"record {stored} of campaign {campaign} was not stored: the disk is full" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [r.trial.number for r in store.records(campaign)] == list(range(stored))
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    store.append(campaign, record(stored))  # room was made


# What cannot be opened


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("paretoprune.db", "'paretoprune.db' is no database URL; write sqlite:///FILE.db"),
        ("", "'' is no database URL"),
        ("mysql://me:secret@host/db", "unknown kind 'mysql'"),
        ("postgresql://me:secret@host:port/db", "is no database URL"),
        ("sqlite:///{tmp}/missing/store.db", "no folder '.*missing'; make it first"),
        ("sqlite:///{tmp}", "is a folder; name a file in it"),
        ("sqlite:////proc/store.db", "cannot be opened or written here|no file can be made in '/proc'"),
    ],
)
def test_urls_that_cannot_be_used(tmp_path: Path, url: str, message: str) -> None:
    for act in (Store, check_store):
        with pytest.raises(StoreError, match=message) as caught:
            act(url.format(tmp=tmp_path))
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def test_checking_a_store_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    check_store(url)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "store.db").close()
    check_store(url)  # an empty file can become a store
    with pytest.raises(StoreError, match="no campaigns in it"):
        Store(url, create=False)
    Store(url).close()
    check_store(url)


def test_a_postgresql_that_is_not_there() -> None:
    with pytest.raises(
        StoreError, match=r"^store postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/db: "
    ) as caught:
        Store("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("a shopping list, long enough to have a header" * 100)
    with pytest.raises(StoreError, match="the file is no SQLite database"):
        Store(f"sqlite:///{file}")
    assert file.read_text().startswith("a shopping list")


def test_readers_make_nothing(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no store .*; `run` makes one"):
        Store(url, create=False)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "store.db").close()
    with pytest.raises(StoreError, match="no campaigns in it"):
        Store(url, create=False)


def test_a_store_of_a_newer_version(store: Store, url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as other:
        other.execute("UPDATE paretoprune_schema SET version = 99")
    other.close()
    for act in (Store, check_store):
        with pytest.raises(
            StoreError, match=r"another version of ParetoPrune \(schema 99, this one reads 1\)"
        ):
            act(url)


def test_tables_of_another_program_are_left_alone(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as other:
        other.execute("CREATE TABLE trials (trial_id INTEGER)")
    other.close()
    with pytest.raises(StoreError, match="its table 'trials' belongs to another program"):
        Store(url)


def test_a_store_in_memory() -> None:
    with Store("sqlite://") as store:
        campaign = store.create(ENTRY)
        store.append(campaign, record(0))
        assert store.records(campaign)[0].agrees_with(record(0))


def test_artifacts_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARETOPRUNE_ARTIFACTS", raising=False)
    assert artifact_dir(f"sqlite:///{tmp_path}/team.db") == tmp_path / "team-artifacts"
    assert artifact_dir("sqlite:///here.db") == Path("here-artifacts")
    assert artifact_dir("postgresql://host/db") == Path("paretoprune-artifacts")
    monkeypatch.setenv("PARETOPRUNE_ARTIFACTS", str(tmp_path))
    assert artifact_dir("postgresql://host/db") == tmp_path
