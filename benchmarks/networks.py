"""Every network of the zoo: what of it can be pruned, and how long it takes to find out and to prove it.

    python -m benchmarks.networks [--only "ResNet*"] [--dims 2] [--missing]
    python -m benchmarks.networks --page

Writes networks.json, case by case (what is measured replaces what was there), and ../docs/networks.md from
it; --page only writes the page. Seconds are of one thread on a small image; the shortest of three traces.

Beside it, in the same run, Torch-Pruning 1.6.1 (extra `bench`) on the same network in eval mode with the same
image: its MagnitudePruner at pruning ratio 0.5, once told to leave the layers alone that make the network's
outputs, and, should that fail, once on everything. It prunes a network where at least 30 % of the parameters
are gone and the result takes the image; in the first case the outputs' shapes must be those of before. What
it raises is recorded in its own words. It is given the tensors in the network's result, wherever they lie
there; nothing else about the network is told or changed, as for ours.
"""

import argparse
import json
import os
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from spaces.inputs import Call, Example
from spaces.space import ChannelSpace
from spaces.tracer import find_tensors
from spaces.tracing import trace
from tests.zoo import ZOO, Entry

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "networks.md"
PATIENCE_S = 180  # a graph that is not built by then counts as a failure, and says so
ENOUGH = 0.8  # prunable share below which the page gives reasons

INTRODUCTION = """\
# What prunes

Every network that the tests prune, with what of it can go. Written by `python -m benchmarks.networks`,
which says how it measures, from [networks.json](../benchmarks/networks.json). Each is also pruned, priced,
saved, trained on and traced again by `tests/test_zoo.py`; the long cases are dated in
[test-full.md](test-full.md).

- **prunable share**: 1 - FLOPs of the smallest network / FLOPs of the dense one, by channels alone (`depth`
  off).
- **trace**: `trace(verify=False)`; **proved**: `trace()`, which proves every group on randomised weights.
  Seconds on a machine that others used at the same time, and many proofs before they became several times
  quicker: read them as upper bounds.
- **Torch-Pruning 1.6.1**: the parameters that it left where it prunes the network as it comes (ratio 0.5,
  the outputs left alone, at least 30 % of the parameters gone, a forward pass), or what it raised. Nobody
  told it of heads or unwrapped parameters, which it can be told of.
"""

SURVEY = """\
An earlier survey of ours, not repeated here, ran 62 cases of MONAI's networks (35 classes, 2-D and 3-D;
half of the channels or the smallest subnet, a forward pass, at least 30 % fewer parameters): NVIDIA
ModelOpt 0.47 (FastNAS) pruned 39 and Torch-Pruning 37. ModelOpt failed on BasicUNet, BasicUNet++,
FlexibleUNet, AttentionUnet, HoVerNet and QuickNAT. ModelOpt was not run for this page.
"""


class TooLong(Exception):
    """The peer did not finish in time."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise `TooLong` after so many seconds."""

    def stop(*_: object) -> None:
        raise TooLong(f"not finished after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def torch_pruning_on(entry: Entry, dims: int, outputs: Sequence[str]) -> dict[str, Any]:
    """What Torch-Pruning makes of the network: the share of parameters left, or what went wrong, in words."""
    found: dict[str, Any] = {}
    for ignored in (outputs, ()):
        torch.manual_seed(0)
        model, image = entry.build(dims).eval(), entry.example(dims)
        try:
            with at_most(PATIENCE_S):
                left = _half(model, image, ignored)
        except Exception as error:
            text = " ".join(str(error).split())
            found.setdefault("error", f"{type(error).__name__}: {text}"[:200])
            continue
        if left <= 0.7:
            return {"prunes": True, "parameters_left": round(left, 3), "outputs_ignored": bool(ignored)}
        found.setdefault("error", f"leaves {left:.0%} of the parameters")
    return {"prunes": False, **found}


def _half(model: nn.Module, image: Example, ignored: Sequence[str]) -> float:
    import torch_pruning  # an extra; the page is written without it

    before = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        shapes = [tensor.shape for tensor in find_tensors(Call.of(image)(model))]
    torch_pruning.pruner.MagnitudePruner(
        model,
        image,
        torch_pruning.importance.MagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[model.get_submodule(path) for path in ignored],
        output_transform=lambda result: list(find_tensors(result)),
    ).step()
    with torch.no_grad():
        after = [tensor.shape for tensor in find_tensors(Call.of(image)(model))]
    if ignored and after != shapes:
        raise ValueError("changes the shape of the network's output")
    return sum(parameter.numel() for parameter in model.parameters()) / before


def measure(name: str, dims: int) -> dict[str, Any]:
    """One row."""
    entry = ZOO[name]
    torch.manual_seed(0)
    model, image = entry.build(dims), entry.example(dims)
    trace(model, image, verify=False, drop=entry.drop)  # loads what torch loads at first
    traces = []
    for _ in range(3):
        began = time.perf_counter()
        trace(model, image, verify=False, drop=entry.drop)
        traces.append(time.perf_counter() - began)
    began = time.perf_counter()
    space = trace(model, image, drop=entry.drop)
    proved = time.perf_counter() - began
    least, most = space.cost([space.minimal, space.dense]).flops
    share = round(float(1 - least / most), 3)
    return {
        "network": name,
        "dims": dims,
        "date": datetime.now(UTC).date().isoformat(),
        "groups": len(space.groups),
        "prunable_share": share,
        "trace_s": round(min(traces), 3),
        "proved_trace_s": round(proved, 2),
        "frozen": [] if share >= ENOUGH else _reasons(space),
        "torch_pruning": torch_pruning_on(entry, dims, _outputs(model, space)),
    }


def _outputs(model: nn.Module, space: ChannelSpace) -> list[str]:
    """Modules that make the network's outputs."""
    paths = dict(model.named_modules())
    found = (frozen.name for frozen in space.frozen if frozen.reason == "is the network's output")
    return [path for path in dict.fromkeys(found) if path in paths]


def _reasons(space: ChannelSpace) -> list[list[str]]:
    """What is frozen and why: each reason with the modules that it holds."""
    by_reason: dict[str, list[str]] = {}
    for frozen in space.frozen:
        by_reason.setdefault(frozen.reason, []).append(frozen.name)
    return [
        [reason, ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")]
        for reason, names in by_reason.items()
        if reason != "has parameters that the forward pass never uses"
    ]


def page(rows: list[dict[str, Any]]) -> str:
    """The page that shows these rows."""
    cases = [(name, dims) for name, entry in ZOO.items() for dims in entry.dims]
    theirs = [row["torch_pruning"]["prunes"] for row in rows]
    dates = sorted(row["date"] for row in rows)
    lines = [
        INTRODUCTION,
        f"Measured {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}: {len(rows)} of {len(cases)} cases. "
        f"ParetoPrune prunes {len(rows)} of them and proves each; Torch-Pruning prunes {sum(theirs)}.",
        "",
        "| network | axes | groups | prunable share | trace, s | proved, s | Torch-Pruning 1.6.1 |",
        "|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        SURVEY,
        "## Where less than 80 % can go",
        "",
    ]
    for row in rows:
        if row["prunable_share"] < ENOUGH:
            why = ZOO[row["network"]].why
            lines.append(f"- **{row['network']}, {row['dims']}-D** ({row['prunable_share']:.1%}): {why}.")
            lines += [f"    - {names}: {reason}" for reason, names in row["frozen"]]
    return "\n".join([*lines, ""])


def _line(row: dict[str, Any]) -> str:
    theirs = row["torch_pruning"]
    if theirs["prunes"]:
        said = f"{theirs['parameters_left']:.0%} left" + (
            "" if theirs["outputs_ignored"] else ", outputs cut"
        )
    else:
        words = theirs["error"].replace("|", "/").replace("`", "'")
        said = f"fails: `{words if len(words) <= 70 else words[:67] + '...'}`"
    return (
        f"| {row['network']} | {row['dims']} | {row['groups']} | {row['prunable_share']:.1%} "
        f"| {row['trace_s']:.2f} | {row['proved_trace_s']:.1f} | {said} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of networks")
    parser.add_argument("--dims", type=int, choices=(1, 2, 3))
    parser.add_argument("--missing", action="store_true", help="only what was never measured")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path = HERE / "networks.json"
    known = {(row["network"], row["dims"]): row for row in json.loads(path.read_text())}
    cases = [(name, dims) for name, entry in ZOO.items() for dims in entry.dims]

    def write() -> None:
        rows = [known[case] for case in cases if case in known]
        path.write_text(json.dumps(rows, indent=1) + "\n")
        PAGE.write_text(page(rows))

    for case in () if options.page else cases:
        wanted = fnmatchcase(case[0], options.only) and options.dims in (None, case[1])
        if wanted and not (options.missing and case in known):
            known[case] = measure(*case)
            write()
            print(known[case], flush=True)
    write()


if __name__ == "__main__":
    main()
