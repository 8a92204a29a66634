"""The campaign files in examples/: what each sets up fits its images, learns and can be pruned."""

from pathlib import Path

import numpy as np
import pytest

from evaluators.data.normalisation import Normalisation
from evaluators.data.tensors import Tensors
from evaluators.training import measure, tune
from search.config import load_config
from search.prepare import trace_network
from spaces.ranking import rank_channels
from spaces.surgery import prune
from tests.data_files import aged, leave, several_labels, volumes

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))
SMALL = {  # what is enough to see that everything fits, in seconds
    "age": ["network.arguments.widen_factor=0.25"],
    "decathlon": ["data.patches=1", "network.arguments.filters=[8, 8, 8]"],
    "hippocampus": ["data.train_limit=4", "data.val_limit=2", "network.arguments.filters=[8, 8, 16, 16]"],
    "nuclei_unet": ["data.train_limit=16", "data.val_limit=8"],
    "vessels": ["data.train_limit=16", "data.val_limit=8"],
}
DEFAULT = ["data.train_limit=64", "data.val_limit=60", "network.arguments.widen_factor=0.25"]


GENERATED = {  # for those that are no real images here
    "age": lambda folder: np.savez(folder / "ages.npz", **aged()),
    "chest_findings": lambda folder: np.savez(folder / "chestmnist.npz", **several_labels()),
    "decathlon": lambda folder: volumes(str(folder / "decathlon_hippocampus"), 8, labels=3),
}


@pytest.mark.data
@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.stem not in GENERATED], ids=lambda path: path.stem)
def test_an_example_fits_its_images_and_trains_what_is_pruned(path: Path, data_dir: Path) -> None:
    check(path)


@pytest.mark.parametrize("name", GENERATED)
def test_an_example_fits_generated_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)
    monkeypatch.setenv("PARETOPRUNE_DATA", str(tmp_path))
    GENERATED[name](tmp_path)
    check(next(path for path in EXAMPLES if path.stem == name))


def check(path: Path) -> None:
    config = load_config(path, [*SMALL.get(path.stem, DEFAULT), "proxy.device=cpu"])
    splits, task, network, space = trace_network(config)
    normalisation = Normalisation.of(splits.train)
    train, val = (Tensors.of(subset, normalisation) for subset in (splits.train, splits.val))
    half = prune(network, space, space.uniform(0.5), rank_channels(network, space, "l1"))
    assert space.cost(space.uniform(0.5)).flops[0] < 0.8 * space.cost(space.dense).flops[0]
    settings = config.proxy.model_copy(update={"epochs": 1, "distill": 0.0})
    tune(half, train, task, settings, seed=0)
    values, per_case = measure(half, val, task, train)
    assert len(per_case["metric"]) == len(val)
    assert (0 if task.metric.name != "r2" else -np.inf) <= values[task.metric.name] <= 1
    named = [name for name in values if "/" in name]
    assert len(named) == len(task.classes) - (task.kind == "segmentation")
    assert all(np.isfinite(value) for value in values.values())
