"""What the command line prints for people: nothing that is to be copied is cut, whatever the width."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from search.display.campaigns import print_campaigns
from search.display.data import print_data
from search.display.printing import new_table, show
from search.store.entries import CampaignRow
from search.words import settings_in_words


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines without what makes them bold."""
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


def campaign(name: str, source: str) -> CampaignRow:
    return CampaignRow(
        name=name,
        id=name,
        config={"budget": {"trials": 60}, "search": {"controller": "nsga2"}},
        fingerprint="",
        fingerprints={},
        description={"data": {"source": source}},
        created=datetime(2026, 11, 24, tzinfo=UTC),
        status="complete",
        n_trials=60,
    )


def test_a_narrow_terminal_keeps_ids_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, 80)
    print_campaigns([campaign("adrenalmnist3d-calibrate-x76b", "medmnist:adrenalmnist3d")])
    lines = said(capsys)
    assert lines[1].startswith("adrenalmnist3d-calibrate-x76b complete 2026-11-24  60/60 nsga2")
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert "".join(line[68:] for line in lines[1:]) == "medmnist:adrenalmnist3d"


def test_columns_move_together_before_anything_is_folded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for width, gap in ((120, "  "), (30, " ")):
        terminal(monkeypatch, width)
        table = new_table(["one", "two", "three"])
        table.add_row(*("x" * 9,) * 3)
        show(table)
        assert said(capsys)[1] == gap.join(["x" * 9] * 3)


def test_settings_are_words() -> None:
    settings = {"rung": "full", "augmentation": {"mirror": True, "noise": 0.0}, "batch_size": 16}
    more = {"depth": False, "prior": None, "objectives": ["flops", "params"]}
    assert (
        settings_in_words({**settings, **more})
        == "rung full, augmentation (mirror), batch size 16, depth off, objectives flops then params"
    )


def test_data_are_described_with_their_units(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {
        "source": "npz:masks.npz",
        "kind": "segmentation",
        "licence": None,
        "channels": 1,
        "spatial": [64, 32],
        "classes": ["background", "tumour"],
        "sizes": {"train": 8, "val": 2, "test": 3},
        "class_counts": {"train": [12000, 4384], "val": [4000, 96]},
        "groups": {"train": 4, "val": None},
        "duplicates_removed": 1,
        "normalisation": {"mode": "percentile", "mean": [1.5], "std": [0.25], "low": [-3.0], "high": [4.0]},
        "regions": {"whole": [1]},
        "fingerprint": "ab",
        "intensities": {"stored_as": "uint8", "lowest": 0.0, "highest": 255.0},
    }
    print_data(found)
    shown = "\n".join(said(capsys))
    for words in (
        "64 x 32 pixels, 1 channel, uint8 from 0 to 255",
        "8 train, 2 val, 3 test",
        "4 in train",
        "percentile; mean 1.5; deviation 0.25; clipped from -3; to 4",
        "not known",
        "pixels in train",
        "4,384",
        "region whole: tumour",
    ):
        assert words in shown
