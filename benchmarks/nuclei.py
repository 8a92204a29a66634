"""Nuclei in microscopy, MONAI's UNet: what 40 % of the FLOPs keep, on images that no search has seen.

    python benchmarks/nuclei.py [--seeds 3] [--trials 40] [--workers 2]

For each seed (of the dense network and of the search): run examples/nuclei_unet.toml, choose on the
validation images the network with the best Dice among those with at most 40 % of the FLOPs, tune it and the
dense network for the same number of steps on the same batches, and measure both on the 135 test images. The
interval is of the paired difference per image. Results in nuclei.json.
"""

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from evaluators.networks import build_network
from evaluators.tasks.factory import make_task
from evaluators.training import measure, tune
from search.config import CampaignConfig, load_config
from search.describe import versions
from search.launch import launch
from search.monitor import TerminalMonitor
from search.prepare import prepare
from search.problem import Problem
from search.store.archive import Store
from search.store.engine import artifact_dir
from search.summary import campaign_summary
from spaces.intervals import paired_difference
from spaces.messages import Genome
from spaces.surgery import prune

HERE = Path(__file__).parent
MAX_FLOPS = 0.40
TUNE_EPOCHS = 6.0
Z95 = 1.96


def tuned_on_test(problem: Problem, genomes: list[Genome]) -> list[np.ndarray]:
    """Dice per test image of each network after equal fine-tuning: the same steps and batches."""
    config, splits, workload = problem.config, problem.splits, problem.workload
    network, _ = build_network(config.network)
    network.load_state_dict({name: torch.tensor(array) for name, array in workload.weights.items()})
    normalisation = splits.normalisation
    train, test_images = normalisation.apply(splits.train), splits.open_test()
    test = normalisation.apply(test_images)
    settings = config.proxy.model_copy(update={"epochs": TUNE_EPOCHS})
    dice = []
    for genome in genomes:
        pruned = prune(network, problem.space, genome, workload.ranking)
        tune(pruned, train, problem.task, settings, seed=1)
        task = make_task(config.task, splits)
        dice.append(measure(pruned, test, task)[1]["metric"].astype(float))
    return dice


def one_seed(config: CampaignConfig, url: str, monitor: TerminalMonitor) -> dict:
    campaign_id = launch(config, url, monitor, command="benchmarks/nuclei.py")
    problem = prepare(config, artifact_dir(url), monitor)
    with Store(url) as store:
        trials = campaign_summary(store, campaign_id).trials
        small = trials[trials["flops_ratio"] <= MAX_FLOPS]
        chosen = small.loc[small["metric"].idxmax()]
        test = problem.splits.open_test().fingerprint
        openings = store.open_test(campaign_id, [int(chosen["number"])], test)
    monitor.say(f"test opened ({openings}): trial {chosen['number']} beside dense")
    pruned, dense = tuned_on_test(problem, [chosen["genome"], problem.space.dense])
    difference, se = paired_difference(pruned, dense)
    return {
        "seed": config.search.seed,
        "dense_val_dice": problem.dense["dice"],
        "trial": int(chosen["number"]),
        "kind": chosen["kind"],
        "genome": [int(units) for units in chosen["genome"]],
        "flops_ratio": float(chosen["flops_ratio"]),
        "params_ratio": float(chosen["params_ratio"]),
        "val_dice": float(chosen["metric"]),
        "test_images": len(dense),
        "test_dice_dense": float(dense.mean()),
        "test_dice_pruned": float(pruned.mean()),
        "difference": difference,
        "interval_95": [difference - Z95 * se, difference + Z95 * se],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    monitor = TerminalMonitor(lines_every_s=30)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            settings = [
                f"budget.trials={options.trials}",
                "search.value=metric",  # Dice over every pixel is no noisy guide
                f"search.seed={seed}",
                f"recipe.seed={seed}",
                "execution.executor=ray",
                f"execution.workers={options.workers}",
            ]
            config = load_config(HERE.parent / "examples/nuclei_unet.toml", settings)
            rows.append(one_seed(config, f"sqlite:///{folder}/nuclei.db", monitor))
            print(json.dumps(rows[-1]))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "tune_epochs": TUNE_EPOCHS,
        "seeds": rows,
        "mean_difference": float(np.mean([row["difference"] for row in rows])),
    }
    (HERE / "nuclei.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
