"""The store: campaigns, trials and openings of the test split; one transaction a record."""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast, get_args

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from search.store.codec import decode_record, encode_record, identity
from search.store.engine import (
    DEFAULT_URL,
    artifact_dir,
    open_engine,
    parse_url,
    shown,
    store_option,
    translated,
)
from search.store.entries import CampaignEntry, CampaignRow, Opening, Status
from search.store.schema import campaigns, test_openings, trials
from spaces.errors import StoreError, did_you_mean
from spaces.messages import Outcome, Record, Trial

SEARCH = "search"
"""The stage of the trials that a campaign's search asks for."""
SET_ASIDE = "set-aside"
"""The stage of evaluations from which the search was taken back; kept for those who ask for them again."""

_PAGE = 64  # records that `stream` reads at once

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike


class Store:
    """An archive of campaigns in SQLite or PostgreSQL.

    Whatever a method was given is on disk when it returns. Every method raises StoreError, one line,
    where the database is locked, full, gone or damaged.

    Args:
        url: `sqlite:///FILE.db` (three slashes, then the path) or `postgresql://USER@HOST/DATABASE`.
        create: Make the database where there is none; readers say False.
        timeout_s: How long to wait for another program that is writing.

    Attributes:
        url: Without its password.
        option: See `store_option`; for messages that name a command.
        artifacts: Where files lie that belong to campaigns.
    """

    def __init__(self, url: str = DEFAULT_URL, *, create: bool = True, timeout_s: float = 30.0) -> None:
        self._place = parse_url(url)
        self._engine = open_engine(url, create=create, timeout_s=timeout_s)
        self._fingerprints: dict[str, str] = {}
        self.url = shown(self._place)
        self.option = store_option(url)
        self.artifacts: Path = artifact_dir(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; safe to repeat."""
        self._engine.dispose()

    def create(self, entry: CampaignEntry) -> str:
        """Add a campaign with status "running".

        Returns:
            Its id: the name in lower case, a dash and four random letters or digits.
        """
        row: dict[str, Any] = {
            "name": entry.name,
            "created": datetime.now(UTC).isoformat(),
            "status": "running",
            "config": json.dumps(dict(entry.config)),
            "fingerprint": entry.fingerprint,
            "fingerprints": json.dumps(dict(entry.fingerprints)),
            "description": json.dumps(dict(entry.description)),
        }
        with self._writing(f"campaign {entry.name!r} was not added") as connection:
            known = set(connection.execute(select(campaigns.c.id)).scalars())
            campaign_id = next(i for i in iter(lambda: _new_id(entry.name), None) if i not in known)
            connection.execute(insert(campaigns).values(id=campaign_id, **row))
        return campaign_id

    def campaign(self, id_or_prefix: str) -> CampaignRow:
        """The campaign with this id, or the only one whose id starts so.

        Raises:
            StoreError: No campaign, or several.
        """
        with self._reading() as connection:
            known = connection.execute(select(campaigns.c.id)).scalars().all()
            fits = (
                [id_or_prefix] if id_or_prefix in known else [i for i in known if i.startswith(id_or_prefix)]
            )
            if len(fits) != 1:
                raise self._no_such(id_or_prefix, known, fits)
            return _campaign_row(
                connection.execute(_campaigns().where(campaigns.c.id == fits[0])).mappings().one()
            )

    def campaigns(self) -> list[CampaignRow]:
        """All campaigns, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(_campaigns().order_by(campaigns.c.created, campaigns.c.id)).mappings()
            return [_campaign_row(row) for row in rows]

    def set_status(self, campaign_id: str, status: Status) -> None:
        """Say how a campaign stands."""
        if status not in get_args(Status):
            raise StoreError(f"a campaign has no status {status!r}; {did_you_mean(status, get_args(Status))}")
        self._update(campaign_id, status=status)

    def update_config(self, campaign_id: str, config: Mapping[str, Any]) -> None:
        """Replace a campaign's configuration, as for a larger budget."""
        self._update(campaign_id, config=json.dumps(dict(config)))

    def update_description(self, campaign_id: str, description: Mapping[str, Any]) -> None:
        """Replace what reports show of a campaign."""
        self._update(campaign_id, description=json.dumps(dict(description)))

    def append(self, campaign_id: str, record: Record, stage: str = SEARCH) -> None:
        """Add a record to a campaign; on disk when this returns. Nothing happens if it is there already.

        Args:
            campaign_id: Which campaign.
            record: What was found.
            stage: Who asked for the trial; numbers are counted within a stage.

        Raises:
            StoreError: The campaign has another record of that number, or it could not be written; then
                nothing of it is stored and the earlier records are untouched.
        """
        number = record.trial.number
        row = encode_record(record, self._fingerprint(campaign_id))
        try:
            with self._writing(f"record {number} of campaign {campaign_id} was not stored") as connection:
                connection.execute(insert(trials).values(campaign_id=campaign_id, stage=stage, **row))
        except IntegrityError:
            self._must_agree(campaign_id, record, stage)

    def set_aside(self, campaign_id: str, first: int) -> int:
        """Take the search back to before trial `first`; how many complete records it had from there on.

        Those go to the stage "set-aside", where `find` knows them still; the others are forgotten.
        """
        mine = trials.c.campaign_id == campaign_id
        later = (mine, trials.c.stage == SEARCH, trials.c.number >= first)
        with self._writing(f"campaign {campaign_id} was not taken back") as connection:
            connection.execute(delete(trials).where(*later, trials.c.status != "complete"))
            highest = select(func.max(trials.c.number)).where(mine, trials.c.stage == SET_ASIDE)
            free = 1 + (connection.execute(highest).scalar_one_or_none() or 0)
            moved = {"stage": SET_ASIDE, "number": trials.c.number - first + free}
            return connection.execute(update(trials).where(*later).values(moved)).rowcount

    def numbers(self, campaign_id: str, status: str) -> list[int]:
        """The numbers of a search's trials that ended so ("complete", "failed", "lost"), ascending."""
        mine = (trials.c.campaign_id == campaign_id, trials.c.stage == SEARCH, trials.c.status == status)
        with self._reading() as connection:
            return list(
                connection.execute(select(trials.c.number).where(*mine).order_by(trials.c.number)).scalars()
            )

    def records(self, campaign_id: str, *, per_case: bool = True, stage: str = SEARCH) -> list[Record]:
        """A campaign's records of one stage in the order of their numbers; `per_case`: with their arrays."""
        self._fingerprint(campaign_id)
        with self._reading() as connection:
            rows = connection.execute(_trials(campaign_id, stage, per_case)).mappings()
            return [self._decoded(row) for row in rows]

    def stream(self, campaign_id: str, stage: str = SEARCH) -> Iterator[Record]:
        """The same records one by one, so that memory holds a few of them only; nothing stays locked."""
        last = -1
        while True:
            query = _trials(campaign_id, stage).where(trials.c.number > last).limit(_PAGE)
            with self._reading() as connection:
                rows = connection.execute(query).mappings().all()
            if not rows:
                return
            yield from map(self._decoded, rows)
            last = rows[-1]["number"]

    def find(self, fingerprint: str, trial: Trial) -> Outcome | None:
        """What any campaign found for this evaluation, whatever its number: the evaluation cache.

        Only complete outcomes: a failure may have been the machine's. The outcome carries the number of
        the trial that it was found in.
        """
        query = (
            select(trials)
            .where(trials.c.identity == identity(fingerprint, trial))
            .where(trials.c.status == "complete")
            .order_by(trials.c.campaign_id, trials.c.number)
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else self._decoded(row).outcome

    def open_test(self, campaign_id: str, points: Iterable[int], test_fingerprint: str) -> int:
        """Note that a campaign looks at its test split, before any network sees it.

        Args:
            campaign_id: Who looks.
            points: Numbers of the trials whose networks are tested.
            test_fingerprint: Of the test images (`Subset.fingerprint`).

        Returns:
            How often these test images were opened in this store, this time included.
        """
        self._fingerprint(campaign_id)
        row = {
            "campaign_id": campaign_id,
            "opened": datetime.now(UTC).isoformat(),
            "test_fingerprint": test_fingerprint,
            "points": json.dumps([int(point) for point in points]),
        }
        with self._writing("the opening of the test split was not noted") as connection:
            connection.execute(insert(test_openings).values(**row))
        return len(self.openings(test_fingerprint))

    def openings(self, test_fingerprint: str) -> list[Opening]:
        """Every opening of these test images by a campaign of this store, oldest first."""
        query = select(test_openings).where(test_openings.c.test_fingerprint == test_fingerprint)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(test_openings.c.id)).mappings().all()
        return [
            Opening(
                campaign_id=row["campaign_id"],
                opened=datetime.fromisoformat(row["opened"]),
                test_fingerprint=row["test_fingerprint"],
                points=tuple(json.loads(row["points"])),
            )
            for row in rows
        ]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._place, "cannot be read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self, trouble: str) -> Iterator[Connection]:
        """One transaction: all of it or nothing."""
        with translated(self._place, trouble), self._engine.begin() as connection:
            yield connection

    def _update(self, campaign_id: str, **values: str) -> None:
        self._fingerprint(campaign_id)
        with self._writing(f"campaign {campaign_id} was not changed") as connection:
            connection.execute(update(campaigns).where(campaigns.c.id == campaign_id).values(**values))

    def _fingerprint(self, campaign_id: str) -> str:
        """The task fingerprint of a campaign, which never changes; StoreError if it is not there."""
        if campaign_id not in self._fingerprints:
            with self._reading() as connection:
                query = select(campaigns.c.fingerprint).where(campaigns.c.id == campaign_id)
                found = connection.execute(query).scalar_one_or_none()
                if found is None:
                    raise self._no_such(campaign_id, connection.execute(select(campaigns.c.id)).scalars(), [])
            self._fingerprints[campaign_id] = found
        return self._fingerprints[campaign_id]

    def _must_agree(self, campaign_id: str, record: Record, stage: str) -> None:
        """Raise unless the stored record of that number says the same."""
        number = record.trial.number
        query = select(trials).where(
            trials.c.campaign_id == campaign_id, trials.c.stage == stage, trials.c.number == number
        )
        with self._reading() as connection:
            stored = self._decoded(connection.execute(query).mappings().one())
        if not stored.agrees_with(record):
            what = "another trial" if stored.trial != record.trial else "another outcome of the same trial"
            raise StoreError(
                f"store {self.url}: campaign {campaign_id} already has {what} under number {number}; "
                "is it running twice, or has its code or data changed?"
            )

    def _decoded(self, row: RowMapping) -> Record:
        try:
            return decode_record(dict(row))
        except ValueError as error:
            where = f"record {row['number']} of campaign {row['campaign_id']}"
            raise StoreError(f"store {self.url}: {where} cannot be read: {error}") from None

    def _no_such(self, wanted: str, known: Iterable[str], fits: list[str]) -> StoreError:
        if fits:
            return StoreError(
                f"{wanted!r} fits several campaigns: {', '.join(sorted(fits))}; write more of it"
            )
        known = list(known)
        hint = did_you_mean(wanted, known) if known else "it has none yet; `run` adds the first"
        return StoreError(f"there is no campaign {wanted!r} in {self.url}; {hint}")


def _campaigns() -> Any:
    """The query for campaigns and the number of their searches' trials."""
    mine = (trials.c.campaign_id == campaigns.c.id, trials.c.stage == SEARCH)
    count = select(func.count()).select_from(trials).where(*mine)
    return select(campaigns, count.scalar_subquery().label("n_trials"))


def _trials(campaign_id: str, stage: str, per_case: bool = True) -> Any:
    """The query for the trials of a stage by number."""
    columns = [column for column in trials.c if per_case or column.name != "per_case"]
    mine = (trials.c.campaign_id == campaign_id, trials.c.stage == stage)
    return select(*columns).where(*mine).order_by(trials.c.number)


def _campaign_row(row: RowMapping) -> CampaignRow:
    return CampaignRow(
        id=row["id"],
        name=row["name"],
        created=datetime.fromisoformat(row["created"]),
        status=cast(Status, row["status"]),
        config=json.loads(row["config"]),
        fingerprint=row["fingerprint"],
        fingerprints=json.loads(row["fingerprints"]),
        description=json.loads(row["description"]),
        n_trials=row["n_trials"],
    )


def _new_id(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "campaign"
    return f"{slug}-{''.join(secrets.choice(_LETTERS) for _ in range(4))}"
