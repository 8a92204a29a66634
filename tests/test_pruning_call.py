"""`prune_with_images`: one call from images to a pruned network, and what it refuses."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import paretoprune as pp
from spaces.criteria import CRITERIA
from tests import tiny
from tests.nets import conv
from tests.pruning_checks import assert_untouched, counted_flops, snapshot

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 1, 16, 16)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0])


def _segmenter() -> nn.Module:
    return nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 2))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_prunes(criterion: str) -> None:
    model = tiny.cnn()
    before = snapshot(model)
    made = pp.prune_with_images(model, IMAGES, LABELS, 0.5, criterion)
    assert made.genome == (8, 16, 16)
    assert made.network(torch.from_numpy(IMAGES)).shape == (6, 2)
    assert sum(tensor.numel() for tensor in made.parameters.values()) == made.params
    assert made.flops == made.space.cost(made.genome).flops[0]
    assert_untouched(model, before, training=True)
    assert counted_flops(made.network, torch.zeros(1, 1, 16, 16)) == made.flops


@pytest.mark.parametrize("labels", [IMAGES[:, 0] > 0, IMAGES > 0])
def test_masks(labels: np.ndarray) -> None:
    made = pp.prune_with_images(
        _segmenter(), torch.from_numpy(IMAGES), labels.astype(np.uint8), 0.5, "fisher"
    )
    assert made.genome == (4,)


def test_numbers_and_a_loss_of_one_s_own() -> None:
    model = tiny.cnn(classes=1)
    made = pp.prune_with_images(model, IMAGES, RNG.standard_normal(6), 0.25)
    assert made.genome == (12, 24, 24)
    seen = []

    def loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels.tolist())
        return outputs.square().mean()

    pp.prune_with_images(model, IMAGES, LABELS, 0.25, loss=loss, batch_size=4)
    assert seen == [[0, 1, 1, 0], [1, 0]]


def test_ratios_by_pattern() -> None:
    made = pp.prune_with_images(tiny.cnn(), IMAGES, None, {"0": 0.5, "[36]": 0.25}, "l1")
    assert made.genome == (8, 24, 24)
    assert pp.prune_with_images(tiny.cnn(), IMAGES, None, {"0": 0.99}, "l1").genome == (1, 32, 32)
    same = {"3": 0.5, "[3]": 0.5}
    assert pp.prune_with_images(tiny.cnn(), IMAGES, None, same, "l1").genome == (16, 16, 32)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ratios": 1.0}, r"1.0 is no pruning ratio"),
        ({"ratios": {"0": -0.1}}, r"'0': -0.1 is no pruning ratio"),
        ({"ratios": {"3": 0.5, "[3]": 0.25}}, "contradict each other: '3' asks for 0.5 and '[3]' for 0.25"),
        ({"ratios": {"11": 0.5}}, "'11' stays whole: it is the network's output"),
        ({"ratios": {"1": 0.5}}, "the channels there belong to the group '0'"),
        ({"ratios": {"nothing": 0.5}}, "'nothing' names no channel group; known: 0, 3, 6"),
        ({"criterion": "tailor"}, "unknown criterion 'tailor'; did you mean 'taylor'"),
        ({"labels": None}, "'taylor' looks at the loss: give labels="),
        ({"labels": LABELS[:4]}, "6 images need as many labels; these have the shape (4,)"),
        ({"labels": LABELS + 1}, "there is the label 2, but the network's output of shape (6, 2)"),
        ({"labels": LABELS - 1}, "class indices from 0, and there is -1"),
        ({"labels": np.zeros((6, 3), dtype=int)}, "must be classes (N,) or masks (N, 16, 16), not (6, 3)"),
        ({"labels": np.full(6, np.nan)}, "labels hold values that are NaN"),
        ({"images": np.full_like(IMAGES, np.inf)}, "images hold values that are NaN or infinite"),
        ({"images": IMAGES[0, 0, 0]}, "images must have the shape (images, channels, ...), not (16,)"),
        ({"images": np.repeat(IMAGES, 3, axis=1)}, "rejects an example input of shape (2, 3, 16, 16)"),
    ],
)
def test_wrong_input(changed: Mapping[str, Any], said: str) -> None:
    model = tiny.cnn()
    before = snapshot(model)
    arguments = {"images": IMAGES, "labels": LABELS, "ratios": 0.5, "criterion": "taylor"} | dict(changed)
    with pytest.raises(pp.InputError) as refused:
        pp.prune_with_images(model, **arguments)
    assert said in str(refused.value)
    assert_untouched(model, before, training=True)


def test_no_network() -> None:
    with pytest.raises(pp.InputError, match=r"must be a torch\.nn\.Module, not str"):
        pp.prune_with_images("resnet", IMAGES, LABELS)  # type: ignore[arg-type]
    with pytest.raises(pp.InputError, match="nothing to prune"):
        pp.prune_with_images(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), IMAGES, LABELS)
