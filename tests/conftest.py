"""What all tests share: where the real images are, and what may be skipped for want of them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.postgres import Server

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests measure behaviour, not threads

settings.register_profile("unhurried", deadline=None)  # a busy machine fails no test
settings.load_profile("unhurried")

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("PARETOPRUNE_DATA", ROOT.parent / "shared" / "data")).resolve()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real images where there are none, unless they are required."""
    if DATA.is_dir() or os.environ.get("PARETOPRUNE_REQUIRE_DATA") == "1":
        return
    for item in items:
        if item.get_closest_marker("data") is not None:  # keywords hold folder names too
            item.add_marker(pytest.mark.skip(reason=f"no real images in {DATA.name}; set PARETOPRUNE_DATA"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real medical images."""
    assert DATA.is_dir(), "PARETOPRUNE_REQUIRE_DATA=1, but PARETOPRUNE_DATA is no folder"
    os.environ["PARETOPRUNE_DATA"] = str(DATA)
    return DATA


@pytest.fixture(scope="session")
def postgres() -> Iterator["Server"]:
    """A PostgreSQL server for all tests; skips where there is none."""
    from tests.postgres import running_server

    with running_server() as server:
        yield server
