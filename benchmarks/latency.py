"""Predicted against measured latency, and the advice on widths, on two networks.

    python -m benchmarks.latency [--out benchmarks/latency.json]

A latency model is fitted to 40 networks of each space and predicts 20 others; all 60 are measured in turn in
the same run, one thread, batch 1. What counts, on both sides, is processor time, and of all calls the 10 %
quantile: what else runs on the machine only adds to it. Errors are |predicted / measured - 1|.
"""

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from monai.networks import nets
from scipy.stats import kendalltau
from torch import Tensor, nn

from evaluators.latency.fitting import fitted, layers_of, measured_ms
from evaluators.latency.measuring import machine
from evaluators.settings import LatencySettings
from search.latency_table import spread_genomes
from spaces.tracing import trace

FITTED, HELD_OUT = 40, 20
CPU = torch.device("cpu")


def resnet18() -> tuple[nn.Module, Tensor]:
    """ResNet-18, grey images of 64 pixels."""
    arguments = {"conv1_t_size": 3, "conv1_t_stride": 2, "no_max_pool": True, "num_classes": 2}
    return nets.resnet18(spatial_dims=2, n_input_channels=1, **arguments), torch.zeros(1, 1, 64, 64)


def unet() -> tuple[nn.Module, Tensor]:
    """MONAI's residual UNet, colour images of 128 pixels."""
    widths, strides = (16, 32, 64, 128, 256), (2, 2, 2, 2)
    return nets.UNet(2, 3, 2, widths, strides, num_res_units=2), torch.zeros(1, 3, 128, 128)


NETWORKS = {"resnet18_64": resnet18, "unet_128": unet}


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.out and arguments.out.exists():
        found = json.loads(arguments.out.read_text())
    for name in [arguments.only] if arguments.only else NETWORKS:
        found[name] = compared(name, arguments.rounds)
        print(json.dumps({key: value for key, value in found[name].items() if key != "held_out"}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def compared(name: str, rounds: int) -> dict[str, Any]:
    """Errors of the model on networks that it has not seen, beside a line through FLOPs."""
    torch.manual_seed(0)
    network, image = NETWORKS[name]()
    network.eval()
    space = trace(network, image, verify=False)
    genomes = spread_genomes(space, FITTED + HELD_OUT)
    settings = LatencySettings(rounds=rounds)
    times = measured_ms(network, space, image, genomes, settings, CPU)
    new = np.arange(len(genomes)) % 3 == 2
    known = [genome for genome, is_new in zip(genomes, new, strict=True) if not is_new]
    model = fitted(layers_of(network, space, image), space, known, times[~new], {})
    counts = np.array(genomes, dtype=float)
    predicted = model(space.expand(counts))
    flops = space.cost(genomes).flops
    line = np.polyfit(flops[~new], times[~new], 1, w=1 / times[~new])
    off, off_line = (np.abs(p[new] / times[new] - 1) for p in (predicted, np.polyval(line, flops)))
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(CPU),
        "threads": settings.threads,
        "batch": settings.batch,
        "fitted": int((~new).sum()),
        "predicted": int(new.sum()),
        "dense_ms": round(float(times[0]), 3),
        "least_ms": round(float(times.min()), 3),
        "multiple": model.multiple,
        "median_error": round(float(np.median(off)), 4),
        "p90_error": round(float(np.quantile(off, 0.9)), 4),
        "median_error_flops_alone": round(float(np.median(off_line)), 4),
        "cross_validated_median_error": round(model.errors["median"], 4),
        "kendall_tau": round(float(kendalltau(predicted[new], times[new]).statistic), 3),
        "kendall_tau_flops_alone": round(float(kendalltau(flops[new], times[new]).statistic), 3),
        "held_out": [
            {"flops": float(f), "measured_ms": round(float(t), 3), "predicted_ms": round(float(p), 3)}
            for f, t, p in zip(flops[new], times[new], predicted[new], strict=True)
        ],
    }


if __name__ == "__main__":
    main()
