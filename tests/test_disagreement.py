"""How far a pruned network's outputs are from the dense one's: 0 where equal, free of labels, rankable by."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.data.tensors import Tensors, as_packed
from evaluators.disagreement import Disagreement
from evaluators.tasks.factory import make_task
from reports.table import trials_frame
from search.config import parse_config
from search.finals.finalise import finalise
from search.finals.points import Choice
from search.launch import launch
from search.monitor import Monitor
from search.prepare import prepare
from search.store.archive import Store
from search.summary import campaign_summary
from spaces.errors import ConfigError
from spaces.messages import Trial
from spaces.objectives import DISAGREEMENT
from tests.test_calibration import CAMPAIGN
from tests.test_tasks import task_of
from tests.test_workload import make_workload, outcomes_of


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_validation_images_and_labels_take_no_part(kind: str) -> None:
    workload = make_workload(kind, rung="recalibrate")
    others = replace(workload.splits, val=workload.splits.val.take(range(8)))
    trial = Trial(0, workload.space.uniform(0.5), "recalibrate")
    one, other = (outcomes_of(each, [trial])[0] for each in (workload, replace(workload, splits=others)))
    assert one.per_case["disagreement"].shape == (48,)
    assert one.values["disagreement"] == pytest.approx(one.per_case["disagreement"].mean(), abs=1e-6)
    assert one.values["disagreement"] == pytest.approx(other.values["disagreement"], rel=0.2)  # other seeds
    assert one.values["loss"] != other.values["loss"]


def test_the_dense_network_agrees_with_itself() -> None:
    workload = make_workload()
    dense = workload.dense_network()
    images = workload.splits.normalisation.apply(workload.splits.train.limit(20))
    task = make_task(workload.task, workload.splits)
    assert Disagreement(dense, task, images).of(dense) == pytest.approx(0, abs=1e-6)


def test_no_network_agrees_better_than_dense_by_rounding() -> None:
    """One minus a cosine of equal embeddings is often -1e-7; estimates take its root."""
    labels = np.arange(60) % 3
    task = task_of("embedding", labels)
    images = torch.randn(60, 1, 6, 5, generator=torch.Generator().manual_seed(0)).half().float()
    same = torch.nn.Flatten()
    found = Disagreement(same, task, Tensors(as_packed(images), torch.from_numpy(labels))).of(same)
    assert found == pytest.approx(0, abs=1e-6)
    assert found.min() >= 0


def test_predictions_in_large_units_are_compared_too() -> None:
    volumes = np.linspace(1e5, 2e5, 12, dtype=np.float32)  # in cubic millimetres
    task = task_of("regression", volumes, (), standardise=False)
    images = Tensors(as_packed(torch.randn(12, 1, 6, 5)), torch.from_numpy(volumes))

    class Constant(torch.nn.Module):
        def __init__(self, said: float) -> None:
            super().__init__()
            self.said = said

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.new_full((len(images), 1), self.said)

    compared = Disagreement(Constant(1.5e5), task, images)
    assert compared.of(Constant(1.5e5)) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(compared.of(Constant(1e5))).all()
    assert compared.of(Constant(1e5)).mean() > 0.1


SETTINGS = CAMPAIGN | {
    "name": "agreeing",
    "proxy": {"rung": "recalibrate", "device": "cpu"},
    "search": {"value": "agreement", "lag": 2},
    "budget": {"trials": 16},
}


def test_a_search_ranks_by_agreement_and_estimates_know_it(tmp_path: Path) -> None:
    config, url = parse_config(SETTINGS), f"sqlite:///{tmp_path / 'store.db'}"
    assert prepare(config, tmp_path, Monitor()).objectives[1] == DISAGREEMENT
    campaign_id = launch(config, url, Monitor())
    with Store(url) as store:
        frame, records = campaign_summary(store, campaign_id).trials, store.records(campaign_id)
    assert frame["disagreement"].notna().all()
    blind = [
        replace(r, outcome=replace(r.outcome, values={**r.outcome.values, "disagreement": math.nan}))
        for r in records
    ]
    dense = frame.loc[frame["kind"].eq("dense"), "genome"].iloc[0]
    without = trials_frame(blind, metric="auc", dense=dense, rung=config.proxy.rung)
    assert without["disagreement"].isna().all()
    assert not np.allclose(without["estimate"], frame["estimate"], atol=1e-4)
    _, networks = finalise(campaign_id, url, Monitor(), Choice(top=1), ["finalise.epochs=1"], test=False)
    assert [network.dense for network in networks] == [True, False]


def test_an_evaluator_of_ones_own_knows_no_agreement() -> None:
    task = {"evaluator": "tests.test_tasks:half_right", "chance": 0.0}
    with pytest.raises(ConfigError, match=r"search\.value = 'agreement' compares outputs"):
        parse_config(SETTINGS | {"task": task})
