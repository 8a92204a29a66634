"""From campaigns on two data sets to a search on a third that starts from what they taught."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.cli import main
from search.prior.advice import stored_advice
from search.prior.file import load_prior
from search.prior.history import expert_weights
from search.scouting import STAGE
from search.store.archive import Store

pytestmark = pytest.mark.data

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = (
    *("network.arguments.widen_factor=0.0625", "data.train_limit=120", "data.val_limit=48"),
    *("recipe.epochs=5", "recipe.learning_rate=0.05", "proxy.rung=recalibrate", "proxy.device=cpu"),
    *("search.lag=2", "budget.trials=13"),
)
CELLS = ("data.source=npz:bccd_cells.npz", "network.arguments.num_classes=3")
ORGANS = ("data.source=npz:mednist.npz", "network.arguments.num_classes=6")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["paretoprune", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return run


def example(name: str, controller: str, *more: str) -> list[str]:
    changes = [*SMALL, f"search.controller={controller}", *more]
    return ["run", str(EXAMPLES / f"{name}.toml"), *(f"--set={change}" for change in changes)]


def test_what_two_data_sets_teach_starts_the_search_on_a_third(call: Call) -> None:
    organs = example("colon_nuclei", "random", *ORGANS, "network.arguments.n_input_channels=1")
    status, _, err = call(*organs)
    assert status == 0, err
    status, out, _ = call("prior", "fit", "paretoprune.db", "--out", "one.safetensors")
    assert "not tested: all campaigns are on npz:mednist.npz" in out
    status, _, err = call(*organs, "--prior", "one.safetensors", "--quiet")
    assert status == 2
    assert "nothing would be transferred" in err.splitlines()[-1]

    status, _, err = call(*example("colon_nuclei", "random", *CELLS))
    assert status == 0, err
    status, out, err = call("prior", "fit", "paretoprune.db", "--out", "prior.safetensors")
    assert status == 0, err
    assert "2 campaigns" in out
    learnt = ("data.train_limit=240", "data.val_limit=96", "recipe.epochs=10")  # on any processor
    target = example("pneumoniamnist", "structured", "budget.trials=18", "search.scouts=24", *learnt)
    status, _, err = call(*target, "--prior", "prior.safetensors")
    assert status == 0, err
    assert "prior of 2 campaigns" in err
    with Store("sqlite:///paretoprune.db") as store:
        row = store.campaigns()[-1]
        records, seen = store.records(row.id), store.records(row.id, stage=STAGE)
        assert set(expert_weights(store, row.id)["expert"]) == {"scouts", "meta", "scan", "flat"}
    assert len(seen) == 24
    digest = load_prior("prior.safetensors").sha256
    assert row.config["search"]["prior_sha256"] == row.description["prior"]["sha256"] == digest
    advice = stored_advice(row.description)
    assert {belief.name for belief in advice.beliefs} == {"meta", "scan", "flat"}
    assert set(advice.proposals) <= {record.trial.genome for record in seen}  # they are looked at first

    status, _, err = call("report", row.id, "--out", "page.html")
    assert status == 0, err
    assert "prior" in Path("page.html").read_text().lower()

    Path("prior.safetensors").unlink()  # going on needs no file
    status, _, err = call("resume", row.id, "--set", "budget.trials=20")
    assert status == 0, err
    with Store("sqlite:///paretoprune.db") as store:
        again = store.records(row.id)
    assert len(again) == 20
    assert all(mine.agrees_with(theirs) for mine, theirs in zip(records, again, strict=False))


def test_the_builtin_prior_starts_a_search_without_what_it_knows_of_the_same_images(call: Call) -> None:
    learnt = ("data.train_limit=240", "data.val_limit=96", "recipe.epochs=10")
    target = example("pneumoniamnist", "random", "budget.trials=16", *learnt)
    status, _, err = call(*target, "--prior", "builtin")
    assert status == 0, err
    assert "more have seen these images and do not count" in err
    with Store("sqlite:///paretoprune.db") as store:
        row = store.campaigns()[-1]
        genomes = {record.trial.genome for record in store.records(row.id)}
    advice = stored_advice(row.description)
    assert not any("pneumonia" in lesson for lesson in dict(advice.about or {})["lessons"])
    assert set(advice.proposals) <= genomes
    assert row.config["search"]["prior_sha256"] == load_prior("builtin").sha256
