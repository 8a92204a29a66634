"""Validation images with what finalised networks say about them: the page that `--with-images` writes.

Images of patients are on it, so it is a file of its own and says so; never the default page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluators.data.sources import load_splits
from evaluators.data.splits import Splits, Subset
from evaluators.deploy.saving import load_network
from evaluators.protocols import Task
from evaluators.tasks.factory import make_task
from evaluators.tasks.heads import main_output
from evaluators.tasks.judged import run_in_batches
from search.config import parse_config
from search.finals.finalised import finalised
from search.monitor import Monitor
from search.store.archive import Store
from spaces.errors import ConfigError, DataError, InputError

if TYPE_CHECKING:
    from reports.examples import Examples

LOOKED_AT = 256
"""Validation cases among which examples are chosen."""
CASES = 12
MOST_NETWORKS = 3
"""Pruned networks that are shown beside dense, cheapest first."""


def write_examples(campaign_ids: Sequence[str], url: str, out: Path, monitor: Monitor) -> Path:
    """Write the page of example images beside a report.

    Args:
        campaign_ids: Of campaigns with finalised networks.
        url: Of the store.
        out: The report's file; the images go into NAME-with-images.html.
        monitor: Shows how it goes.

    Raises:
        InputError: A campaign has no finalised networks, its data are others now, or it has no images.
    """
    from reports.examples import write_example_page

    with Store(url, create=False) as store:
        found = [_examples(store, campaign_id, monitor) for campaign_id in campaign_ids]
    return write_example_page(found, out.with_name(f"{out.stem}-with-images{out.suffix or '.html'}"))


def _examples(store: Store, campaign_id: str, monitor: Monitor) -> "Examples":
    from reports.examples import Examples

    row, networks = store.campaign(campaign_id), finalised(store, campaign_id)
    pruned = [network for network in networks if not network.dense][:MOST_NETWORKS]
    dense = next((network for network in networks if network.dense), None)
    if dense is None or not pruned:
        raise InputError(
            f"campaign {row.id} has no finalised networks, whose predictions could be shown; "
            f"`paretoprune finalise {row.id}` first, or leave --with-images out"
        )
    config = parse_config(row.config)
    splits = load_splits(config.data)
    if splits.fingerprint != row.description["data"]["fingerprint"]:
        raise DataError(f"the images of campaign {row.id} are others now; put back what was there")
    task = make_task(config.task, splits)
    if task.kind not in ("classification", "multilabel", "segmentation"):
        raise ConfigError(f"--with-images shows classes and masks; campaign {row.id} is a {task.kind}")
    looked_at = splits.val.limit(LOOKED_AT)
    data = splits.normalisation.apply(looked_at)
    answers, losses = {}, {}
    named = {"dense": dense, **{f"network {network.point}": network for network in pruned}}
    with monitor.stage("predicting") as advance:
        for i, (name, network) in enumerate(named.items()):
            folder = store.artifacts / row.id / network.folder
            module = load_network(folder, factory=config.network.factory).eval()
            losses[name] = task.examine(module, data)["loss"]
            outputs = [main_output(found).float().cpu().numpy() for found, _ in run_in_batches(module, data)]
            answers[name] = np.concatenate(outputs)
            advance(i + 1, len(named))
    chosen = _chosen(losses["dense"], losses[f"network {pruned[0].point}"])
    return Examples(
        campaign=row.id,
        classes=tuple(task.classes),
        images=np.stack([_picture(looked_at.images[i], _slice(looked_at, splits, i)) for i in chosen]),
        truth=_truth(looked_at, splits, task, chosen),
        answers={name: _answer(found, looked_at, splits, task, chosen) for name, found in answers.items()},
        masks=task.kind == "segmentation",
    )


def _chosen(dense: np.ndarray, pruned: np.ndarray) -> list[int]:
    """Cases where pruning hurts most, and as many at random: places among those looked at."""
    worst = np.argsort(dense - pruned, kind="stable")[: CASES // 2]
    others = np.setdiff1d(np.arange(len(dense)), worst)
    some = np.random.default_rng(0).permutation(others)[: CASES - len(worst)]
    return [*map(int, worst), *map(int, np.sort(some))]


def _slice(subset: Subset, splits: Splits, i: int) -> int | None:
    """Of a volume, the slice with the most in its mask, or the middle one; None for an image."""
    if len(splits.spatial) == 2:
        return None
    target = subset.targets[i]
    if target.ndim != len(splits.spatial) or not target.any():
        return splits.spatial[0] // 2
    return int((target > 0).sum(axis=tuple(range(1, target.ndim))).argmax())


def _picture(image: np.ndarray, place: int | None) -> np.ndarray:
    """(height, width, 3) uint8 of (channels, *spatial); a first channel that is no colour is grey."""
    flat = image if place is None else image[:, place]
    flat = flat if flat.shape[0] == 3 else np.repeat(flat[:1], 3, axis=0)
    values = flat.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if image.dtype != np.uint8:
        values = 255 * (values - low) / max(high - low, 1e-9)
    return np.moveaxis(values, 0, -1).clip(0, 255).astype(np.uint8)


def _truth(subset: Subset, splits: Splits, task: Task, chosen: Sequence[int]) -> list[object]:
    """Masks (height, width) of classes, or the names of the true classes."""
    if task.kind == "segmentation":
        return [_flat(subset.targets[i], _slice(subset, splits, i)) for i in chosen]
    if task.kind == "multilabel":
        names = np.array(task.classes)
        return [", ".join(names[subset.targets[i].astype(bool)]) or "none" for i in chosen]
    return [task.classes[int(subset.targets[i])] for i in chosen]


def _answer(
    found: np.ndarray, subset: Subset, splits: Splits, task: Task, chosen: Sequence[int]
) -> list[object]:
    """Masks (height, width), or probabilities by class."""
    answers: list[object] = []
    for i in chosen:
        output = found[i]
        if task.kind == "segmentation":
            mask = _mask(output, splits.regions)
            answers.append(_flat(mask, _slice(subset, splits, i)))
        else:
            answers.append(_probabilities(output, task))
    return answers


def _mask(output: np.ndarray, regions: Mapping[str, Sequence[int]]) -> np.ndarray:
    if regions:  # the last region that claims a pixel is seen
        mask = np.zeros(output.shape[1:], dtype=np.uint8)
        for k, indices in enumerate(regions.values()):
            mask[output[k] > 0] = max(indices)
        return mask
    if len(output) == 1:
        return (output[0] > 0).astype(np.uint8)
    return np.asarray(output.argmax(axis=0), dtype=np.uint8)


def _flat(mask: np.ndarray, place: int | None) -> np.ndarray:
    return mask if place is None else mask[place]


def _probabilities(output: np.ndarray, task: Task) -> dict[str, float]:
    if task.kind == "classification" and len(output) == 1:
        output = np.array([0.0, output[0]])
    if task.kind == "classification":
        powers = np.exp(output - output.max())
        shares = powers / powers.sum()
    else:
        shares = 1 / (1 + np.exp(-output))
    return {name: float(share) for name, share in zip(task.classes, shares, strict=True)}
