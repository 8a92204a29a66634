"""Cross-fitting: every case is measured by a network that never saw it, and pooled."""

from pathlib import Path

import numpy as np
import pytest

from evaluators.folds import Folds
from evaluators.pools.serial import SerialPool
from search.config import parse_config
from search.launch import launch, resume
from search.monitor import Monitor
from search.prepare import prepare
from search.store.archive import Store
from search.summary import campaign_summary
from spaces.errors import ConfigError
from spaces.messages import Trial
from tests.test_calibration import CAMPAIGN

FOLDED = {
    **CAMPAIGN,
    "data": {"source": "phantom:classification", "train_limit": 256, "val_limit": 64, "folds": 3},
    "search": {"controller": "random"},
    "budget": {"trials": 42},
}


def test_every_fold_holds_out_its_own_cases_and_has_its_own_dense_network(tmp_path: Path) -> None:
    problem = prepare(parse_config(FOLDED), tmp_path, Monitor())
    assert isinstance(problem.spec, Folds)
    sizes = [len(workload.splits.val) for workload in problem.folds]
    assert sum(sizes) == 256 + 64
    assert len({workload.fingerprints["weights"] for workload in problem.folds}) == 3
    with SerialPool(problem.spec) as pool:
        for fold in range(4):
            pool.submit(Trial(fold, problem.space.dense, fold=fold))
        outcomes = [outcome for _ in range(4) for outcome in pool.completed()]
    assert [len(outcome.per_case["loss"]) for outcome in outcomes[:3]] == sizes
    assert outcomes[3].status == "failed"
    assert "no fold 3" in str(outcomes[3].error)


def test_a_campaign_with_folds_pools_what_every_fold_measured(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    campaign_id = launch(parse_config(FOLDED), url, Monitor())
    with Store(url) as store:
        records = store.records(campaign_id)
        report = campaign_summary(store, campaign_id)
    folds = np.array([record.trial.fold for record in records])
    assert set(folds) == {0, 1, 2}
    assert report.cases == 256 + 64
    trials = report.trials
    assert trials[trials["kind"].eq("dense")]["replicates"].iloc[0] == 3
    assert (trials["kind"] == "ladder").sum() >= 5, "the ladder is seen in every fold"
    everywhere = {r.trial.genome for r in records if r.trial.fold == 2}
    assert set(trials["genome"]) <= everywhere
    before = [record.trial for record in records]
    resume(campaign_id, url, Monitor(), ["budget.trials=44"])
    with Store(url) as store:
        assert [record.trial for record in store.records(campaign_id)][:42] == before


def test_given_weights_cannot_be_cross_fitted(tmp_path: Path) -> None:
    table = {**FOLDED, "network": {"factory": "tests.tiny:cnn", "weights": "trained.pt"}}
    with pytest.raises(ConfigError, match=r"data\.folds = 3 needs a dense network for every fold"):
        prepare(parse_config(table), tmp_path, Monitor())
