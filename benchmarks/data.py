"""What data costs: volumes from files and from the cache, and images for a worker's second trial.

- `patches`: hippocampus volumes (Decathlon, NIfTI) read, oriented, normalised by case and cut into patches,
  beside the same patches from the cache of decoded images; train, val and test, plain and encrypted.
- `second_trial`: a worker's second trial (ResNet-18, 28 pixels, one epoch): how long until its first batch is
  ready, and all its batches with augmentation, as shares of the trial.

    python -m benchmarks.data            # results in data.json; images in $PARETOPRUNE_DATA
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.evaluation import NETWORK
from evaluators.data.assembling import assemble
from evaluators.data.listing import decathlon, find_folder
from evaluators.data.packs import packed
from evaluators.data.sources import load_splits
from evaluators.dense import as_arrays
from evaluators.evaluation import NetworkEvaluator
from evaluators.networks import build_network, code_of
from evaluators.settings import DataSettings, ProxySettings, TaskSettings
from evaluators.tasks.factory import make_task
from evaluators.training import batches, n_steps
from evaluators.workload import Workload
from search.describe import versions
from spaces.messages import Trial
from spaces.ranking import rank_channels
from spaces.tracing import trace

HERE = Path(__file__).parent
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def patches() -> dict[str, Any]:
    """Seconds from files and from the cache, in turn, so that other work on the machine meets both."""
    settings = DataSettings(
        source="decathlon:decathlon_hippocampus", patch=(32, 32, 32), patches=4, normalise="case"
    )
    listing = decathlon(find_folder("decathlon_hippocampus", "decathlon"), None)
    packed(listing, settings)  # imports
    result: dict[str, Any] = {"volumes": 60, "patch": [32, 32, 32], "patches": 4}
    for name, key in (("plain", None), ("encrypted", "ab" * 32)):
        if key:
            os.environ["PARETOPRUNE_KEY"] = key
        from_files, from_cache = [], []
        for _ in range(ROUNDS):
            for pack in Path(os.environ["PARETOPRUNE_CACHE"]).glob("pack-*"):
                pack.unlink()
            from_files.append(seconds(lambda: assemble(listing, settings).open_test()))
            packed(listing, settings)
            from_cache.append(seconds(lambda: packed(listing, settings).open_test()))
        ratios = [a / b for a, b in zip(from_files, from_cache, strict=True)]
        result[name] = {
            "files_s": median(from_files),
            "cache_s": median(from_cache),
            "times_faster": median(ratios),
            "lowest": min(ratios),
        }
    os.environ.pop("PARETOPRUNE_KEY", None)
    return result


def second_trial() -> dict[str, Any]:
    """Shares of a worker's second trial."""
    splits = load_splits(DataSettings(source="medmnist:pneumoniamnist", train_limit=512, val_limit=200))
    network, _ = build_network(NETWORK)
    space = trace(network, torch.zeros(1, 1, 28, 28))
    ranking = rank_channels(network, space, "l1")
    settings = ProxySettings(epochs=1, batch_size=32)
    code = code_of(network, NETWORK, None)
    workload = Workload(NETWORK, code, as_arrays(network), space, ranking, splits, TaskSettings(), settings)
    task = make_task(TaskSettings(), splits)
    evaluator = NetworkEvaluator(workload)
    data = evaluator.bench.subset
    evaluator.evaluate(Trial(0, space.uniform(0.5)))
    rounds = []
    for number in range(1, 1 + ROUNDS):
        trial_s = seconds(lambda n=number: evaluator.evaluate(Trial(n, space.uniform(0.5))))
        first_s = seconds(lambda: next(batches(data, task, settings, 1, 0)))
        n = n_steps(settings, len(data))
        all_s = seconds(lambda n=n: [None for _ in batches(data, task, settings, n, 0)])
        rounds.append((trial_s, first_s / trial_s, all_s / trial_s))
    trial_s, first, every = (median(values) for values in zip(*rounds, strict=True))
    return {"trial_s": trial_s, "first_batch_share": first, "all_batches_share": every}


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PARETOPRUNE_CACHE"] = cache
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "versions": versions(),
            "cpu_count": os.cpu_count(),
            "patches": patches(),
            "second_trial": second_trial(),
        }
    print(json.dumps(result, indent=1))
    (HERE / "data.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
