"""Finalised networks in the store: what is kept comes back."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console

from search.display.finalised import print_finalised
from search.finals.finalised import finalised, keep_finalised, plain
from search.store import CampaignEntry, Store
from spaces.finals import ClassResult, Estimate, FinalNetwork, Reliability, TestResult


def network(point: int, flops: float, *, dense: bool = False, tested: bool = True) -> FinalNetwork:
    found = Estimate(0.9, 0.85, 0.95)
    difference = None if dense else Estimate(-0.01, -0.03, 0.01)
    test = TestResult(
        {"auc": 0.9, "loss": 0.4},
        found,
        difference,
        (ClassResult("malignant", "recall", 42, found, difference),),
        Reliability(0.05, (0.6, 0.9), (0.5, 0.95), (0.4, 0.6)),
        "confusion",
        ("benign", "malignant"),
        ("benign", "malignant"),
        ((100.0, 14.0), (10.0, 32.0)),
    )
    return FinalNetwork(
        point,
        dense,
        "dense" if dense else f"point-{point}",
        (4, 8),
        "auc",
        {"flops": flops, "params": 10.0, "activation_bytes": 3.0},
        {"flops": flops / 100, "params": 0.1, "activation_bytes": 0.3},
        {"epochs": 10.0, "learning_rate": 0.01},
        "g",
        {"auc": 0.91},
        12.5,
        "abc",
        test if tested else None,
        156 if tested else 0,
        opened="2026-01-01T00:00:00+00:00" if tested else None,
        tried=({"learning_rate": 0.1, "value": 0.8},),
    )


def test_what_is_kept_comes_back_dense_first(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        entry = CampaignEntry(
            name="a", config={}, fingerprint="f", fingerprints={}, description={"metric": "auc"}
        )
        campaign = store.create(entry)
        assert finalised(store, campaign) == []
        given = [network(7, 50.0, tested=False), network(3, 20.0), network(0, 100.0, dense=True)]
        keep_finalised(store, campaign, given)
        assert finalised(store, campaign) == [given[2], given[1], given[0]]
        assert store.campaign(campaign).description["metric"] == "auc", "the rest stays"


def test_the_table_says_what_was_not_tested(capsys: pytest.CaptureFixture[str]) -> None:
    print_finalised("a-long-id-of-a-campaign", [network(0, 100.0, dense=True, tested=False)])
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0]
        == "a-long-id-of-a-campaign: finalised networks, AUC on the validation cases (not tested yet)"
    )
    assert lines[1].split() == ["network", "FLOPs", "params", "val"]
    some = [network(0, 100.0, dense=True), network(3, 20.0), network(7, 50.0, tested=False)]
    print_finalised("a", some)
    lines = capsys.readouterr().out.splitlines()
    assert "calibration error" in lines[1]
    assert lines[4].endswith("not opened"), "and no blanks after it"


def test_at_80_columns_no_interval_is_torn(capsys: pytest.CaptureFixture[str]) -> None:
    some = [network(0, 100.0, dense=True), *(network(n, 20.0) for n in (3, 7, 12, 115))]
    two = [replace(result, name=name) for result in classes_of(some[0]) for name in ("malignant", "benign")]
    some = [replace(n, test=replace(n.test, classes=tuple(two))) for n in some if n.test]
    with patch("search.display.printing.Console", lambda **given: Console(**{**given, "width": 80})):
        print_finalised("a", some)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert out.count("(0.850 to 0.950)") == 5 + 10, "networks; classes of each"
    assert out.count("(-0.030 to +0.010)") == 4
    print_finalised("a", some)
    assert "0.900 (0.850 to 0.950)  -0.010 (-0.030 to +0.010)" in capsys.readouterr().out, (
        "where there is room"
    )


def classes_of(network: FinalNetwork) -> tuple[ClassResult, ...]:
    assert network.test is not None
    return network.test.classes


def test_a_network_is_plain_json() -> None:
    assert json.loads(json.dumps(plain(network(3, 20.0))))["test"]["classes"][0]["value"]["low"] == 0.85
