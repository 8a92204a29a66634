"""Every network of the zoo: what of it can be pruned, and how long it takes to find out and to prove it.

    python benchmarks/networks.py [--only "ResNet*"] [--dims 2]

Writes networks.json (what is measured replaces what was there) and ../docs/networks.md from it. Seconds are
of one thread on a small image. Torch-Pruning 1.6.1 (extra `bench`) passes where it prunes half of the
channels as the network comes, the result takes the image, and at least 30 % of the parameters are gone.
"""

import argparse
import copy
import json
import os
import sys
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() != HERE.resolve())]

import torch
import torch_pruning
from torch import Tensor, nn

from spaces.tracing import trace
from tests.zoo import ZOO


def torch_pruning_passes(model: nn.Module, image: Tensor) -> bool:
    model = copy.deepcopy(model).eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    try:
        importance = torch_pruning.importance.MagnitudeImportance()
        torch_pruning.pruner.MagnitudePruner(model, image, importance, pruning_ratio=0.5).step()
        with torch.no_grad():
            model(image)
    except Exception:
        return False
    return sum(parameter.numel() for parameter in model.parameters()) <= 0.7 * before


def measure(name: str, dims: int) -> dict[str, Any]:
    entry = ZOO[name]
    torch.manual_seed(0)
    model, image = entry.build(dims), entry.example(dims)
    trace(model, image, verify=False, drop=entry.drop)  # loads what torch loads at first
    started = time.perf_counter()
    trace(model, image, verify=False, drop=entry.drop)
    traced = time.perf_counter()
    space = trace(model, image, drop=entry.drop)
    proved = time.perf_counter()
    least, most = space.cost([space.minimal, space.dense]).flops
    return {
        "network": name,
        "dims": dims,
        "groups": len(space.groups),
        "prunable_share": round(float(1 - least / most), 3),
        "trace_s": round(traced - started, 3),
        "verified_trace_s": round(proved - traced, 2),
        "torch_pruning": torch_pruning_passes(model, image),
    }


def page(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# What prunes",
        "",
        "Written by `python benchmarks/networks.py`, which says how. Prunable share: 1 - FLOPs",
        "of the smallest network / FLOPs of the dense one. Seconds depend on what else the machine does.",
        f"Measured so far: {len(rows)} of {sum(len(entry.dims) for entry in ZOO.values())} cases.",
        "",
        "| network | axes | groups | prunable share | trace, s | verified trace, s | Torch-Pruning 1.6.1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        theirs = "prunes" if row["torch_pruning"] else "fails"
        lines.append(
            f"| {row['network']} | {row['dims']} | {row['groups']} | {row['prunable_share']:.1%} "
            f"| {row['trace_s']:.2f} | {row['verified_trace_s']:.1f} | {theirs} |"
        )
    less = [f"- {name}: {entry.why}." for name, entry in ZOO.items() if entry.why]
    return "\n".join([*lines, "", "Where the network forces a smaller share:", "", *less, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*")
    parser.add_argument("--dims", type=int, choices=(2, 3))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path = HERE / "networks.json"
    known = {
        (row["network"], row["dims"]): row for row in (json.loads(path.read_text()) if path.exists() else [])
    }
    for name, entry in ZOO.items():
        for dims in entry.dims:
            if fnmatchcase(name, options.only) and options.dims in (None, dims):
                known[name, dims] = measure(name, dims)
                rows = [known[key] for key in ((n, d) for n in ZOO for d in (2, 3)) if key in known]
                path.write_text(json.dumps(rows, indent=1) + "\n")
                (HERE.parent / "docs" / "networks.md").write_text(page(rows))
                print(known[name, dims], flush=True)


if __name__ == "__main__":
    main()
