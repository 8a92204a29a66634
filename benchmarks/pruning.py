"""How fast candidates are made and priced, side by side with Torch-Pruning 1.6.1 in one run.

    python benchmarks/pruning.py [--repeats 7]

Needs the extra `bench`. Results in pruning.json; times are medians in seconds of one thread's processor time,
ours and theirs taken in turn, so that it matters little what else the machine does. For each network (64 x 64
pixels, in 3-D 32 x 32 x 32 voxels):

- a candidate: ours is `prune` (genome to ready module); theirs a deep copy, a MagnitudeImportance pruner at
  pruning ratio 0.5 on it, and its step;
- `trace(verify=False)`;
- each data-free criterion against three training steps of eight images;
- the candidate's share of a trial of twenty such steps of the pruned network.

And for DenseNet121: 10,000 genomes priced at once, against building and counting one by one.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch_pruning
from monai.networks import nets
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search.describe import versions
from spaces.criteria import CRITERIA
from spaces.ranking import Ranking, rank_channels
from spaces.space import ChannelSpace
from spaces.surgery import prune
from spaces.tracing import trace

HERE = Path(__file__).parent
BATCH, TRIAL_STEPS, GENOMES = 8, 20, 10_000


def resnet50() -> tuple[nn.Module, Tensor]:
    return nets.resnet50(spatial_dims=2, n_input_channels=3, num_classes=2), torch.randn(1, 3, 64, 64)


def densenet121() -> tuple[nn.Module, Tensor]:
    return nets.DenseNet121(2, 3, 2), torch.randn(1, 3, 64, 64)


def segresnet() -> tuple[nn.Module, Tensor]:
    return nets.SegResNet(3, init_filters=16, in_channels=1, out_channels=2), torch.randn(1, 1, 32, 32, 32)


def senet154() -> tuple[nn.Module, Tensor]:
    return nets.SENet154(spatial_dims=2, in_channels=3, num_classes=2), torch.randn(1, 3, 64, 64)


NETWORKS = {"ResNet50": resnet50, "DenseNet121": densenet121, "SegResNet 3-D": segresnet}


def seconds(work: Callable[[], object]) -> float:
    gc.collect()  # what the one before left behind is not charged to this one
    began = time.process_time()
    work()
    return time.process_time() - began


def medians(repeats: int, **works: Callable[[], object]) -> dict[str, float]:
    """The median time of each, taken in turn, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def theirs(model: nn.Module, image: Tensor) -> nn.Module:
    """A deep copy, pruned by Torch-Pruning; output layers are left alone, as its guide says."""
    copied = copy.deepcopy(model)
    outputs = [m for m in copied.modules() if isinstance(m, nn.Linear) and m.out_features == 2]
    outputs += [m for m in copied.modules() if isinstance(m, nn.Conv3d) and m.out_channels == 2]
    pruner = torch_pruning.pruner.BasePruner(
        copied,
        image,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=outputs,
    )
    pruner.step()
    return copied


def training_step(model: nn.Module, image: Tensor) -> None:
    """Forward, backward and update on a batch."""
    images = image.repeat(BATCH, *[1] * (image.ndim - 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    optimiser.zero_grad()
    model(images).square().mean().backward()
    optimiser.step()


def network_times(build: Callable[[], tuple[nn.Module, Tensor]], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, image = build()
    space = trace(model, image, verify=False)
    ranking = rank_channels(model, space)
    genome = space.uniform(0.5)
    pruned = prune(model, space, genome, ranking)
    candidate = medians(
        repeats,
        ours=lambda: prune(model, space, genome, ranking),
        theirs=lambda: theirs(model, image),
    )
    trained = copy.deepcopy(model).train()
    step = medians(
        3, dense=lambda: training_step(trained, image), pruned=lambda: training_step(pruned, image)
    )
    data_free = [name for name, criterion in CRITERIA.items() if not criterion.batches]
    rankings = medians(3, **{name: lambda name=name: rank_channels(model, space, name) for name in data_free})
    return {
        "groups": len(space.groups),
        "candidate_s": candidate,
        "candidate_ratio": candidate["theirs"] / candidate["ours"],
        "candidate_share_of_trial": candidate["ours"] / (candidate["ours"] + TRIAL_STEPS * step["pruned"]),
        "trace_s": medians(3, trace=lambda: trace(model, image, verify=False))["trace"],
        "three_training_steps_s": 3 * step["dense"],
        "ranking_s": rankings,
        "slowest_ranking_over_three_steps": max(rankings.values()) / (3 * step["dense"]),
    }


def pricing(repeats: int) -> dict[str, Any]:
    """10,000 genomes at once, against building and counting each."""
    model, image = densenet121()
    space = trace(model, image, verify=False)
    ranking = rank_channels(model, space)
    rng = np.random.default_rng(0)
    genomes = np.array([space.sample(rng) for _ in range(GENOMES)])
    few = [tuple(int(kept) for kept in genome) for genome in genomes[:5]]
    times = medians(
        repeats,
        flops=lambda: space.cost(genomes).flops,
        flops_and_params=lambda: (lambda costs: (costs.flops, costs.params))(space.cost(genomes)),
        activation_bytes=lambda: space.cost(genomes).activation_bytes,
        all_three=lambda: (lambda costs: (costs.flops, costs.params, costs.activation_bytes))(
            space.cost(genomes)
        ),
    )
    counted = statistics.median(
        seconds(lambda g=g: build_and_count(model, space, g, ranking, image)) for g in few
    )
    return {
        "genomes": GENOMES,
        "priced_s": times,
        "built_and_counted_s_each": counted,
        "ratio": counted * GENOMES / times["all_three"],
    }


def build_and_count(
    model: nn.Module, space: ChannelSpace, genome: tuple[int, ...], ranking: Ranking, image: Tensor
) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        prune(model, space, genome, ranking).eval().to("meta")(image.to("meta"))
    assert counter.get_total_flops() == space.cost(genome).flops[0]
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    large, image = senet154()
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": dict(versions()) | {"torch-pruning": "1.6.1"},
        "cpu_count": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "networks": {name: network_times(build, options.repeats) for name, build in NETWORKS.items()},
        "pricing": pricing(options.repeats),
        "trace_senet154_s": medians(2, trace=lambda: trace(large, image, verify=False))["trace"],
        "load_at_end": os.getloadavg()[0],
    }
    (HERE / "pruning.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
