"""The reference that every pruning has to beat: the ladder's networks trained from nothing by SGD.

    python -m benchmarks.scratch [--pairs breast-resnet adrenal-resnet nuclei-unet] [--seeds 0 1]

The uniform networks of the ladder, at the widths that pruning gives them, start from a fresh initialisation
and are trained with the recipe that dense had. Beside them the same networks as a campaign's rung
has them (sliced from dense, then adapted); the bank's best network at up to the same FLOPs by
disagreement on training images; and that one tuned with dense's whole recipe, from dense's weights. All are
judged by the metric on test; nothing is chosen by it. Results are added to scratch.json one by one; those
there are skipped.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.bank_files import read_bank
from benchmarks.banks import Bench
from benchmarks.pairs import PAIRS, config_of
from benchmarks.provenance import made
from evaluators.networks import build_network
from evaluators.training import tune
from search.genes import octaves
from search.monitor import Monitor
from spaces.messages import Genome, Trial

RESULTS = Path(__file__).with_suffix(".json")


def scratch(bench: Bench, pair: str, genome: Genome, seed: int) -> tuple[float, float]:
    """Test metric of a network of these widths trained from a fresh initialisation, and seconds it took."""
    fresh, _ = build_network(config_of(pair).network, seed=1000 + seed)
    began = time.perf_counter()
    return trained(bench, pair, fresh, genome, seed), time.perf_counter() - began


def trained(bench: Bench, pair: str, start: torch.nn.Module, genome: Genome, seed: int) -> float:
    """Test metric of what the genome keeps of a network, after all of dense's recipe."""
    evaluator = bench.evaluator
    network = evaluator.sliced(start, genome)
    tune(network, evaluator.bench.train, evaluator.task, config_of(pair).recipe, seed=1000 + seed)
    return bench.on_test(network, 1000 + seed)


def rows_of(
    pair: str, seeds: list[int], artifacts: Path, known: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Of dense and each network of the ladder after those that are known."""
    bank = read_bank(pair)
    ladder = [tuple(bank.about["dense"]["genome"]), *(tuple(genome) for genome in bank.about["ladder"])][
        len(known) :
    ]
    if not ladder:
        return
    bench = Bench(pair, artifacts, Monitor())
    space = bench.problem.space
    told, test = bank.column("disagreement"), bank.column("test")
    levels = octaves(space, np.array(bank.genomes))
    for genome in ladder:
        level = float(octaves(space, np.array([genome]))[0])
        _, at_rung = bench.record(Trial(0, genome, bench.rung))
        found = [scratch(bench, pair, genome, seed) for seed in seeds]
        affordable = np.flatnonzero(levels <= level + 1e-6)
        best = affordable[told[affordable].argmin()]
        dense, chosen = bench.evaluator.bench.dense, tuple(bank.genomes[best])
        tuned = [trained(bench, pair, dense, chosen, seed) for seed in seeds]
        yield {
            "octaves": round(level, 2),
            "scratch": [round(value, 4) for value, _ in found],
            "scratch_s": round(float(np.mean([spent for _, spent in found])), 1),
            "rung": round(at_rung["test"], 4),
            "bank": round(float(test[best]), 4),
            "bank_octaves": round(float(levels[best]), 2),
            "bank_tuned": [round(value, 4) for value in tuned],
        }


def write(kept: dict[str, list[dict[str, Any]]]) -> None:
    """All pairs, one network a line."""
    about = made()
    head = json.dumps(about, indent=1).removesuffix("\n}")
    body = ",\n".join(
        f'  "{name}": [\n   ' + ",\n   ".join(json.dumps(row) for row in rows) + "\n  ]"
        for name, rows in kept.items()
    )
    RESULTS.write_text(f'{head},\n "pairs": {{\n{body}\n }}\n}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", nargs="+", choices=PAIRS, default=["breast-resnet", "adrenal-resnet", "nuclei-unet"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--artifacts", type=Path, default=Path(tempfile.gettempdir()) / "banks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.artifacts.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text())["pairs"] if RESULTS.exists() else {}
    for pair in options.pairs:
        for row in rows_of(pair, options.seeds, options.artifacts, kept.setdefault(pair, [])):
            kept[pair].append(row)
            write(kept)
            print(pair, row, flush=True)


if __name__ == "__main__":
    main()
