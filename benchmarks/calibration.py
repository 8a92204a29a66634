"""How well each rung ranks, and what it costs: `paretoprune calibrate` on the sets of generalisation.py.

    python -m benchmarks.calibration [--data breastmnist ...] [--networks 16]     # goes on where it stopped

Kendall's tau-b with `full` (mean of two repeats), overall and among networks within an octave of FLOPs, and
the median seconds of an evaluation, all in one run: only ratios of times mean anything. Results are added to
calibration.json, a data set at a time; those that are there are skipped.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.cases import CASES, RECIPE
from search.config import parse_config
from search.describe import versions
from search.launch import calibrate
from search.monitor import TerminalMonitor

RESULTS = Path(__file__).with_suffix(".json")


def one(name: str, networks: int, folder: Path) -> dict[str, Any]:
    """The calibration of one data set, with `shared` against `finetune` of two epochs."""
    recipe = {"batch_size": 32, "threads": 1, **CASES[name].get("recipe", RECIPE)}
    proxy = {"epochs": 2, "full_epochs": 8, "shared_epochs": 20, "learning_rate": 0.02, "device": "cpu"}
    table = {"name": name, **CASES[name], "recipe": recipe, "proxy": proxy}
    config = parse_config({**table, "calibrate": {"networks": networks}})
    folder.mkdir(parents=True, exist_ok=True)
    _, found = calibrate(config, f"sqlite:///{folder}/calibration.db", TerminalMonitor(lines_every_s=30))
    rows = {(rung.rung, rung.value): rung for rung in found.rungs}
    shared, tuned = rows["shared", "metric"], rows["finetune", "metric"]
    return {
        "data": name,
        "shared_is_cheaper_than_finetune": round(tuned.seconds / shared.seconds, 1),
        "tau_of_shared_above_finetune": round(shared.overall.tau - tuned.overall.tau, 3),
        **found.as_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "paretoprune-calibration"
    )
    options = parser.parse_args()
    for name in options.data:
        known = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
        if any(run["data"] == name for run in known):
            continue
        result = {"versions": versions(), "runs": [*known, one(name, options.networks, options.folder)]}
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(result["runs"][-1])[:200], flush=True)


if __name__ == "__main__":
    main()
