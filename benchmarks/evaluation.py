"""What an evaluation costs, as ratios in one run: to a bare training loop, and of pruned to dense.

    python -m benchmarks.evaluation [--out benchmarks/evaluation.json]

ResNet-18 on 64 x 64 pixels, one thread, batches of 16, phantoms. The least of several interleaved rounds
counts.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from evaluators.data.normalisation import Normalisation
from evaluators.data.sources import load_splits
from evaluators.data.tensors import Tensors
from evaluators.networks import build_network
from evaluators.settings import (
    AugmentationSettings,
    DataSettings,
    NetworkSettings,
    ProxySettings,
    TaskSettings,
)
from evaluators.tasks.factory import make_task
from evaluators.training import batches, n_steps, tune
from spaces.ranking import rank_channels
from spaces.space import ChannelSpace
from spaces.surgery import prune
from spaces.tracing import trace

SIZE = 64
NETWORK = NetworkSettings(
    factory="monai.networks.nets:resnet18",
    arguments={
        "spatial_dims": 2,
        "n_input_channels": 1,
        "num_classes": 2,
        "conv1_t_size": 3,
        "conv1_t_stride": 2,
        "no_max_pool": True,
    },
)
ROTATED = AugmentationSettings(rotate=15, scale=0.1, contrast=0.1, brightness=0.1)


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(arguments.images, arguments.rounds)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def measured(images: int, rounds: int) -> dict[str, object]:
    """Seconds and ratios."""
    options = {"size": SIZE, "n_train": images, "n_val": 8}
    splits = load_splits(DataSettings(source="phantom:classification", options=options))
    task = make_task(TaskSettings(), splits)
    data = Tensors.of(splits.train, Normalisation.of(splits.train))
    dense, _ = build_network(NETWORK)
    space = trace(dense, torch.zeros(1, 1, SIZE, SIZE), verify=False)
    ranking = rank_channels(dense, space, "l1")
    genome = _at_share(space, 0.3)
    settings = ProxySettings(epochs=1, batch_size=16, device="cpu", precision="float32")
    half = settings.model_copy(update={"precision": "bfloat16"})
    ready = list(batches(data, task, settings, n_steps(settings, images), seed=0))

    def finetune(genome: tuple[int, ...], how: ProxySettings) -> Callable[[], None]:
        def work() -> None:
            tune(prune(dense, space, genome, ranking), data, task, how, seed=0)

        return work

    def bare() -> None:
        network = prune(dense, space, space.dense, ranking).train()
        options = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "fused": True}
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01, **options)
        for inputs, targets in ready:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs), targets).backward()
            optimiser.step()

    def surgery() -> None:
        prune(dense, space, genome, ranking)

    def augmentation(how: AugmentationSettings) -> Callable[[], None]:
        changed = settings.model_copy(update={"augmentation": how})

        def work() -> None:
            for _ in batches(data, task, changed, len(ready), seed=0):
                pass

        return work

    jobs = {
        "bare_loop_dense": bare,
        "finetune_dense": finetune(space.dense, settings),
        "finetune_pruned": finetune(genome, settings),
        "finetune_dense_bfloat16": finetune(space.dense, half),
        "finetune_pruned_bfloat16": finetune(genome, half),
        "surgery": surgery,
        "batches_mirrored_shifted": augmentation(AugmentationSettings()),
        "batches_rotated_scaled_shaded": augmentation(ROTATED),
    }
    seconds = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, work in jobs.items():
            began = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    dense_s = seconds["finetune_dense"]
    return {
        "network": f"ResNet-18, 1 x {SIZE} x {SIZE}, batches of 16, one thread, {len(ready)} steps",
        "widths": list(genome),
        "flops_share": float(space.cost(genome).flops[0] / space.cost(space.dense).flops[0]),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "finetune_to_bare_loop": round(dense_s / seconds["bare_loop_dense"], 3),
        "pruned_to_dense": round(seconds["finetune_pruned"] / dense_s, 3),
        "bfloat16_to_float32_dense": round(seconds["finetune_dense_bfloat16"] / dense_s, 3),
        "bfloat16_to_float32_pruned": round(
            seconds["finetune_pruned_bfloat16"] / seconds["finetune_pruned"], 3
        ),
        "share_of_plain_augmentation": round(seconds["batches_mirrored_shifted"] / dense_s, 4),
        "share_of_full_augmentation": round(seconds["batches_rotated_scaled_shaded"] / dense_s, 4),
    }


def _at_share(space: ChannelSpace, share: float) -> tuple[int, ...]:
    """The uniform genome whose FLOPs come nearest to this share of dense."""
    genomes = [space.uniform(0.01 * percent) for percent in range(20, 101)]
    flops = space.cost(genomes).flops / space.cost(space.dense).flops[0]
    return genomes[int(abs(flops - share).argmin())]


if __name__ == "__main__":
    main()
