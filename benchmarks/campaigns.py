"""Short campaigns on real images, one for each kind of data that the project takes.

Every case is a campaign file of `examples/` made small enough for two cores: a narrow network, few epochs, 20
to 60 trials. What a case gives: the dense network's metric on val, and near 50, 25 and 10 % of its FLOPs the
network that the campaign advises there (or else the best plausible one), with its paired difference to dense
after equal steps and the 95 % interval over patients. These are figures of the search, on the images that it
used: they flatter.

    python -m benchmarks.campaigns --minutes 8      # goes on where it stopped; results in campaigns.json
    python -m benchmarks.campaigns --table          # the table of the README

Images are looked for in $PARETOPRUNE_DATA.
"""

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.provenance import made
from search.config import load_config
from search.launch import launch, resume
from search.monitor import Monitor
from search.store.archive import Store
from search.summary import campaign_summary
from spaces.errors import ParetoPruneError, StoreError

HERE = Path(__file__).parent
RESULTS = HERE / "campaigns.json"
NEAR = (0.5, 0.25, 0.1)
"""Shares of the dense FLOPs that a network is looked for at, within half an octave."""

NARROW = "network.arguments.widen_factor=0.25"


@dataclass(frozen=True)
class Case:
    """A campaign file of `examples/`, what is changed in it, and how data and network are called."""

    example: str
    changes: tuple[str, ...]
    data: str
    network: str


CASES: Mapping[str, Case] = {
    "breast": Case(
        "breastmnist",
        (NARROW, "data.folds=3", "proxy.rung=shared", "budget.trials=120"),
        "breast ultrasound, 28 pixels, three folds",
        "ResNet-18, a quarter as wide",
    ),
    "pneumonia": Case(
        "pneumoniamnist",
        (NARROW, "proxy.train_limit=512", "budget.trials=30", "search.controller=nsga2"),
        "chest X-ray, 28 pixels",
        "ResNet-18, a quarter as wide",
    ),
    "colon": Case(
        "colon_nuclei",
        (
            NARROW,
            "recipe.epochs=40",
            "recipe.optimiser=adamw",
            "recipe.learning_rate=0.002",
            "recipe.batch_size=16",
            "recipe.augmentation={rotate=180,brightness=0.3}",
            "proxy.rung=shared",
            "proxy.shared_epochs=8",
            "budget.trials=60",
        ),
        "colon nuclei, 64 pixels, four classes",
        "ResNet-18, a quarter as wide",
    ),
    "adrenal": Case(
        "adrenal3d",
        (NARROW, "proxy.train_limit=256", "budget.trials=30"),
        "adrenal shapes, 28 x 28 x 28",
        "3-D ResNet-18, a quarter as wide",
    ),
    "hippocampus": Case(
        "decathlon",
        ("budget.trials=24", "recipe.epochs=12", "data.patches=2", "proxy.epochs=1"),
        "hippocampus MRI, patches of 32 x 32 x 32",
        "DynUNet, 8 to 32 filters",
    ),
    "nuclei": Case(
        "nuclei_unet",
        ("budget.trials=40", "data.train_limit=200", "recipe.epochs=6", "proxy.epochs=1"),
        "nuclei, 128 pixels",
        "UNet",
    ),
    "vessels": Case(
        "vessels",
        ("budget.trials=40", "recipe.epochs=20", "proxy.epochs=1"),
        "retinal vessels, 128 pixels",
        "UNet",
    ),
    "dicom": Case(
        "breastmnist",
        (
            NARROW,
            "data.source=dicom:clinic",
            "data.size=[32,32]",
            "data.shares=[0.5,0.5,0]",
            "recipe.epochs=20",
            "budget.trials=14",
        ),
        "two MR series as a DICOM folder, 54 slices: only that it runs",
        "ResNet-18, a quarter as wide",
    ),
}


def advance(name: str, folder: Path, seconds: float) -> bool:
    """Start or go on with a case for so long; whether its budget is spent."""
    case, url = CASES[name], f"sqlite:///{folder / 'campaigns.db'}"
    limit = f"budget.wall_s={max(1.0, seconds)}"
    changes = [*case.changes, "recipe.threads=1", limit, f"name={name}"]
    config = load_config(HERE.parent / "examples" / f"{case.example}.toml", changes)
    known = _campaign(name, url)
    if known is None:
        known = launch(config, url, Monitor())
    else:
        resume(known, url, Monitor(), [limit, f"budget.trials={config.budget.trials}"])
    with Store(url) as store:
        row = store.campaign(known)
        result = summed_up(name, store, known)
    write(name, result | {"complete": row.n_trials >= config.budget.trials, "settings": list(case.changes)})
    return bool(row.n_trials >= config.budget.trials)


def _campaign(name: str, url: str) -> str | None:
    try:
        with Store(url, create=False) as store:
            return next((row.id for row in store.campaigns() if row.id.startswith(f"{name}-")), None)
    except StoreError:
        return None


def summed_up(name: str, store: Store, campaign_id: str) -> dict[str, Any]:
    """The figures of a case."""
    report, about = campaign_summary(store, campaign_id), store.campaign(campaign_id).description
    table = report.trials
    dense = next(row for row in table.to_dict("records") if row["kind"] == "dense")
    points = []
    for share in NEAR:
        octaves = (table["flops_ratio"] / share).map(lambda ratio: abs(math.log2(ratio)))
        near = table[(octaves <= 0.5) & (table["kind"] != "dense") & table["plausible"]]
        if not len(near):
            points.append({"near": share})
            continue
        pool = near[near["advised"]] if near["advised"].any() else near
        best = pool.sort_values("estimate").iloc[-1]
        figures = ("flops_ratio", "params_ratio", "metric", "difference", "low", "high", "replicates")
        points.append(
            {"near": share, "advised": bool(best["advised"]), "ladder": best["kind"] == "ladder"}
            | {figure: float(best[figure]) for figure in figures}
        )
    return {
        "data": CASES[name].data,
        "network": CASES[name].network,
        "metric": report.metric,
        "chance": about["chance"],
        "dense": float(dense["metric"]),
        "dense_mflops": float(about["dense"]["flops"]) / 1e6,
        "sizes": about["data"]["sizes"],
        "trials": len(store.records(campaign_id)),
        "hypervolume": report.hypervolume,
        "ladder_hypervolume": report.ladder_hypervolume,
        "points": points,
    }


def write(name: str, result: Mapping[str, Any]) -> None:
    """Beside the other cases."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": {}}
    found |= made()
    found["cases"][name] = dict(result)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a row a case."""
    near = [f"near {share:.0%} of the FLOPs" for share in NEAR]
    lines = ["| data | network | metric, dense | " + " | ".join(near) + " |", "|---" * (3 + len(near)) + "|"]
    for case in found["cases"].values():
        if "failed" in case:
            cells = [f"failed: {case['failed']}", *[""] * len(near)]
        else:
            cells = [f"{case['metric']} {case['dense']:.3f}"]
            for point in case["points"]:
                cells.append(_cell(point))
        lines.append(f"| {case['data']} | {case['network']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(point: Mapping[str, Any]) -> str:
    if "flops_ratio" not in point:
        return "none plausible"
    figures = f"{point['difference']:+.3f} ({point['low']:+.3f} to {point['high']:+.3f})"
    return f"{point['flops_ratio']:.1%}: {figures}"


def clinic(folder: Path) -> None:
    """A DICOM folder with a CSV, of the two series in the test images, in the current folder."""
    home = Path(os.environ["PARETOPRUNE_DATA"]) / "dicom"
    place = folder / "clinic"
    if place.exists():
        return
    place.mkdir(parents=True)
    rows = ["file,label,patient"]
    for label in ("mr_T1post_PGBM-003", "mr_HippoCrop_13"):
        for index, file in enumerate(sorted((home / label).iterdir())):
            shutil.copy(file, place / f"{label}-{index}.dcm")
            rows.append(f"{label}-{index}.dcm,{label.split('_')[1]},{label}-{index}")
    (place / "labels.csv").write_text("\n".join(rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; default all that are not complete")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all")
    parser.add_argument(
        "--folder", type=Path, default=Path("/tmp/paretoprune-campaigns"), help="of the store"
    )
    parser.add_argument("--table", action="store_true", help="print the README's table and do nothing else")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    clinic(options.folder)
    done = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    for name in options.cases or CASES:
        if time.monotonic() > end - 20 or (done.get(name, {}).get("complete") and not options.cases):
            continue
        here = Path.cwd()
        os.chdir(options.folder)
        try:
            complete = advance(name, options.folder, end - time.monotonic() - 10)
            print(name, "complete" if complete else "not complete yet", flush=True)
        except ParetoPruneError as error:
            os.chdir(here)
            case = CASES[name]
            write(name, {"data": case.data, "network": case.network, "failed": str(error).partition(": ")[0]})
            print(name, "failed:", error, flush=True)
        finally:
            os.chdir(here)


if __name__ == "__main__":
    main()
