"""Plain numbers about a campaign's groups and task, taken from its network and images when it starts.

They are stored with the campaign and are all that a prior ever sees of network and images. A number that
cannot be had (no loss to differentiate, no norm) is left out rather than made up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from evaluators.pools.threads import pinned_threads
from evaluators.tasks.factory import make_task
from evaluators.training import batches
from spaces.clone import clone_with, named_tensors
from spaces.criteria import CRITERIA, Batches, Material
from spaces.errors import ParetoPruneError
from spaces.space import ChannelSpace

if TYPE_CHECKING:
    from search.problem import Problem

SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Kept shares of a group at which importance curves are read."""

CURVES = ("l1", "taylor", "activation", "fisher")
"""Criteria whose importance curves are kept."""

_IMAGES = 32
_FISHER_IMAGES = 8
_WIDEST = 1024  # rows of a weight matrix whose rank is looked at

Numbers = dict[str, float]


@dataclass
class _Layer:
    """A module as a forward pass saw it."""

    place: float = 0.0
    pixels: float = 1.0


@dataclass
class _Member:
    """What one group has to do with the network's layers."""

    producers: list[str] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    mixed: list[bool] = field(default_factory=list)  # per consumer: whether other groups enter it, too
    norms: int = 0
    fed: list[bool] = field(default_factory=list)  # per producer: whether any group enters it
    last: list[bool] = field(default_factory=list)  # per consumer: whether its outputs all stay


def describe_structure(problem: "Problem") -> tuple[list[Numbers], Numbers]:
    """Descriptors of every gene of a campaign's space, in its order, and of its task.

    Costs a forward pass, four passes over a few images with gradients, and small eigenvalue problems:
    seconds for networks of ordinary size.
    """
    space = problem.space
    network = problem.workload.dense_network()
    with pinned_threads(problem.config.proxy.threads):
        members, layers = _members(network, space.fine), _forward(network, problem)
        curves = _importance(network, problem)
        fine = [
            _structure(network, member, layers) | _rank(network, member) | curve
            for member, curve in zip(members, curves, strict=True)
        ]
    ties = [tie.groups for tie in getattr(space, "ties", ())] or [(i,) for i in range(len(space.groups))]
    genes = [_mean([fine[i] for i in tie]) for tie in ties]
    return [gene | costs for gene, costs in zip(genes, _costs(space), strict=True)], _task(problem, network)


def _mean(rows: list[Numbers]) -> Numbers:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _costs(space: ChannelSpace) -> list[Numbers]:
    """What each gene's halving saves, and how fast its first channels do, as shares of the dense costs."""
    dense, n = np.array(space.dense, dtype=float), len(space.groups)
    rows = {}
    for name, kept in (("half", 0.5), ("first", 0.9)):
        genomes = np.tile(dense, (n, 1))
        genomes[np.arange(n), np.arange(n)] *= kept
        costs, whole = space.cost(genomes), space.cost(space.dense)
        for cost in ("flops", "params", "activation_bytes"):
            rows[f"{cost}_{name}"] = 1 - getattr(costs, cost) / getattr(whole, cost)
    return [{name: float(values[i]) for name, values in rows.items()} for i in range(n)]


def _members(network: nn.Module, space: ChannelSpace) -> list[_Member]:
    members = [_Member() for _ in space.groups]
    sides: dict[str, dict[int, np.ndarray]] = {}
    for axis in space.axes:
        if axis.tensor.endswith(".weight"):
            held = np.unique(np.searchsorted(space.offsets, axis.units[axis.units >= 0], side="right") - 1)
            sides.setdefault(axis.tensor.removesuffix(".weight"), {})[axis.dim] = held
    for path, dims in sides.items():
        module = network.get_submodule(path)
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim < 2:
            for group in dims.get(0, ()):
                members[group].norms += 1
            continue
        out, into = (1, 0) if getattr(module, "transposed", False) else (0, 1)
        made, taken = dims.get(out, np.array([], dtype=int)), dims.get(into, np.array([], dtype=int))
        for group in made:
            members[group].producers.append(path)
            members[group].fed.append(bool(len(taken)))
        for group in taken:
            members[group].consumers.append(path)
            members[group].mixed.append(len(taken) > 1)
            members[group].last.append(not len(made))
    return members


def _forward(network: nn.Module, problem: "Problem") -> dict[str, _Layer]:
    """Order and output size of every layer with weights, relative to the whole pass and to the image."""
    size = (problem.splits.channels, *problem.splits.spatial)
    pixels = float(np.prod(problem.splits.spatial))
    layers: dict[str, _Layer] = {}

    def seen(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and path not in layers:
                spread = output.shape[2:] if output.ndim > 3 else output.shape[1:-1]
                layers[path] = _Layer(float(len(layers)), max(float(np.prod(spread)) / pixels, 1e-6))

        return hook

    named = [(path, module) for path, module in network.named_modules() if hasattr(module, "weight")]
    hooks = [module.register_forward_hook(seen(path)) for path, module in named]
    with torch.inference_mode():
        network(torch.zeros(1, *size))
    for handle in hooks:
        handle.remove()
    for layer in layers.values():
        layer.place /= max(len(layers) - 1, 1)
    return layers


def _structure(network: nn.Module, member: _Member, layers: Mapping[str, _Layer]) -> Numbers:
    """Place, sizes and role of a group in the network."""
    touched = [*member.producers, *member.consumers]
    modules = [network.get_submodule(path) for path in touched]
    made = [layers[path] for path in member.producers if path in layers]
    used = [layers[path] for path in member.consumers if path in layers]
    taps = [float(np.prod(getattr(module, "kernel_size", (1,)))) for module in modules]
    strides = [max(getattr(module, "stride", (1,))) for module in modules]
    numbers = {
        "producers": float(len(member.producers)),
        "consumers": float(len(member.consumers)),
        "stream": float(len(member.producers) > 1),
        "inside": float(len(member.producers) == 1 and len(member.consumers) == 1),
        "norms": float(member.norms > 0),
        "attention": float(any("attn" in path or "attention" in path for path in touched)),
    }
    if touched:
        numbers |= {
            "log_taps": float(np.mean(np.log2(taps))),
            "linear": float(np.mean([isinstance(module, nn.Linear) for module in modules])),
            "decoder": float(any(getattr(module, "transposed", False) for module in modules)),
            "downsampling": float(any(stride > 1 for stride in strides)),
        }
    if member.producers:
        numbers["stem"] = float(not all(member.fed))
    if member.consumers:
        numbers |= {"skip": float(np.mean(member.mixed)), "head": float(any(member.last))}
    if made:
        numbers |= {
            "depth": float(np.mean([layer.place for layer in made])),
            "log_resolution": float(np.mean([np.log2(layer.pixels) for layer in made])),
        }
    if made and used:
        numbers["reach"] = max(layer.place for layer in used) - min(layer.place for layer in made)
    return numbers


def _rank(network: nn.Module, member: _Member) -> Numbers:
    """Effective rank of what the producers' weights span, as a share of their channels.

    Source: Roy and Vetterli 2007 (effective rank: exponential of the entropy of the singular values).
    """
    shares = []
    for path in member.producers:
        weight = network.get_parameter(f"{path}.weight").detach()
        transposed = getattr(network.get_submodule(path), "transposed", False)
        rows = weight.transpose(0, 1) if transposed else weight
        rows = rows.reshape(len(rows), -1)[:_WIDEST].double()
        values = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0).sqrt()
        share = values / values.sum().clamp_min(1e-12)
        entropy = -(share * share.clamp_min(1e-12).log()).sum()
        shares.append(float(entropy.exp()) / len(rows))
    return {"effective_rank": float(np.mean(shares))} if shares else {}


def _importance(network: nn.Module, problem: "Problem") -> list[Numbers]:
    """Share of a group's importance that its best units hold; of Fisher's, also the group's own share."""
    space, splits = problem.space.fine, problem.splits
    task = make_task(problem.config.task, splits)
    images = splits.normalisation.apply(splits.train.limit(_IMAGES))
    settings = problem.config.proxy.model_copy(update={"augment": False, "balanced": False})
    rows: list[Numbers] = [{} for _ in space.groups]
    for name in CURVES:
        if CRITERIA[name].loss and not task.trains:
            continue
        n_images = _FISHER_IMAGES if name == "fisher" else _IMAGES
        size = min(n_images, settings.batch_size, len(images))
        some = settings.model_copy(update={"batch_size": size})
        looks: Batches = (
            list(batches(images, task, some, -(-n_images // size), seed=0)) if task.trains else ()
        )
        if CRITERIA[name].batches and not looks:
            continue
        copy = clone_with(network, lambda _, tensor: tensor.detach().clone())
        try:
            scores = CRITERIA[name].score(Material(copy, space, looks, task.loss, 0))
        except ParetoPruneError:  # this criterion finds nothing to look at here; the others do
            continue
        total = float(np.sum(scores))
        for i, row in enumerate(rows):
            mine = np.sort(scores[space.offsets[i] : space.offsets[i + 1]])[::-1]
            held = float(mine.sum())
            if not (np.isfinite(held) and held > 0 and total > 0):
                continue
            grown = np.concatenate([[0.0], np.cumsum(mine) / held])
            at = np.linspace(0, 1, len(grown))
            row |= {f"{name}_{k}": float(np.interp(share, at, grown)) for k, share in enumerate(SHARES)}
            if name == "fisher":  # the only one in the same unit everywhere: the loss
                row["fisher_log_share"] = float(np.log(held / total))
    return rows


def _task(problem: "Problem", network: nn.Module) -> Numbers:
    splits, task, space = problem.splits, problem.task, problem.space
    counts = np.asarray(splits.train.class_counts(len(splits.classes)), dtype=float)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    dense = problem.dense[task.metric.name]
    whole = space.cost(space.dense).row(0)
    return {
        "classes": float(len(splits.classes)),
        "log_train": float(np.log2(len(splits.train))),
        "log_val": float(np.log2(len(splits.val))),
        "log_pixels": float(np.log2(np.prod(splits.spatial))),
        "channels": float(splits.channels),
        "dims": float(len(splits.spatial)),
        "dense": float(dense),
        "margin": float(dense - task.chance),
        "entropy": float(-(shares * np.log2(shares)).sum()) if len(shares) else 0.0,
        "segmentation": float(task.kind == "segmentation"),
        "log_flops": float(np.log2(whole["flops"])),
        "log_params": float(np.log2(whole["params"])),
        "log_groups": float(np.log2(len(space.groups))),
        "batch_norm": float(any("running_mean" in name for name, _ in named_tensors(network))),
    }
