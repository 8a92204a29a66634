"""The model card of an exported network (Mitchell et al. 2019), in Markdown. It holds no patient's data."""

from collections.abc import Iterable
from typing import Any

from evaluators.deploy.facts import Facts
from spaces.finals import Estimate, TestResult

_TASKS = {
    "classification": "says which class an image shows",
    "multilabel": "says which findings an image shows",
    "segmentation": "draws regions in an image",
    "regression": "estimates a number from an image",
    "embedding": "turns an image into features",
}
_LIMITS = (
    "Not a medical device: no regulatory body has assessed it. Research use, until whoever deploys it has "
    "validated it on their own patients.",
    "Images of other scanners, protocols, populations or diseases than those it was trained on may be judged "
    "wrongly, without any sign.",
)
_PRUNED = (
    "Pruning may have cost classes that few images show more than the mean says: see the table of classes."
)


def model_card(facts: Facts, files: Iterable[str], loading: str) -> str:
    """The card.

    Args:
        facts: About the network.
        files: Name and meaning of every file beside it, as Markdown.
        loading: Code that loads it.
    """
    about = facts.description
    what = _TASKS.get(about.task or "", "does what its training asked for")
    parts = [
        f"# {facts.title}",
        f"A network ({about.factory.rpartition(':')[2]}) that {what}"
        + (", not pruned." if facts.dense else ", pruned with ParetoPrune."),
        "## Files\n\n" + "\n".join(f"- {line}" for line in files),
        f"## Loading\n\n```python\n{loading.strip()}\n```",
        "## Intended use\n\n" + _use(facts),
        "## Input\n\n" + _input(facts),
        "## Output\n\n" + _output(facts),
        "## Data\n\n" + _data(facts),
        "## How well it does\n\n" + _results(facts),
        "## What it costs\n\n" + _costs(facts),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _LIMITS + _own_limits(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _use(facts: Facts) -> str:
    about = facts.description
    classes = f" ({', '.join(about.classes)})" if about.classes else ""
    return (
        f"{(about.task or 'its task').capitalize()}{classes} on images as in {about.data or 'its data set'}. "
        "For use by people who can check what it says; not for decisions without them."
    )


def _input(facts: Facts) -> str:
    about = facts.description
    shape = " x ".join(map(str, about.input_shape))
    lines = [f"float32, batch x {shape} (channels first)."]
    for name, value in about.preparation.items():
        lines.append(
            f"Before that: {name} {' x '.join(map(str, value))}{' mm' if name == 'spacing' else ''}."
        )
    found = about.normalisation
    if found is None:
        lines.append("Its normalisation was not recorded: as in training.")
    elif found.get("mode") == "none":
        lines.append("Intensities as they are in the files.")
    elif found.get("mode") == "case":
        lines.append("Every image: minus its own mean, over its own standard deviation, per channel.")
    else:
        shown = {name: _figures(found[name]) for name in ("low", "high", "mean", "std") if found.get(name)}
        clip = "clip to {low} to {high}, then ".format(**shown) if "low" in shown else ""
        lines.append(f"Intensities per channel: {clip}subtract {shown['mean']}, divide by {shown['std']}.")
    return "\n".join(lines)


def _figures(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _output(facts: Facts) -> str:
    about = facts.description
    if facts.activation == "affine" and about.units:
        return f"One number; the answer is {about.units[0]:g} + {about.units[1]:g} times it."
    if facts.activation == "none":
        return "As the network gives it."
    meaning = f"One channel a class, in this order: {', '.join(about.classes)}." if about.classes else ""
    if facts.activation == "softmax" and len(about.classes) == 2:
        meaning += f" Where there is one channel only, its sigmoid is the probability of {about.classes[1]}."
    return f"Before {facts.activation}. {meaning}"


def _data(facts: Facts) -> str:
    about, final = facts.description, facts.final
    lines = [f"{about.data or 'Not recorded'}. Licence: {about.licence or 'not recorded'}."]
    if final is not None and final.test is not None:
        patients = "patients unknown" if final.patients is None else f"{final.patients} patients"
        lines.append(
            f"Tested on {final.cases} held-out cases ({patients}); these test images were opened "
            f"{final.openings} {'time' if final.openings == 1 else 'times'} by then."
        )
    return "\n".join(lines)


def _results(facts: Facts) -> str:
    final, metric = facts.final, facts.description.metric
    if final is None or final.test is None:
        value = facts.description.values.get(metric or "")
        known = "" if value is None else f" On the validation images, which chose it: {metric} {value:.3f}."
        return f"Not tested on held-out images.{known}"
    test = final.test
    lines = [f"{final.metric} {_shown(test.metric)} on the test images."]
    if test.difference is not None:
        lines.append(f"Paired difference to the dense network: {_shown(test.difference, signed=True)}.")
    if final.tested_together > 1:
        lines.append(f"95 % intervals, which hold for all {final.tested_together} tested networks at once.")
    if test.reliability is not None:
        lines.append(f"Expected calibration error: {test.reliability.error:.3f}.")
    return " ".join(lines) + _classes(test) + _distances(test)


def _classes(test: TestResult) -> str:
    if not test.classes:
        return ""
    rows = ["", "", "| class | cases | measure | value, 95 % | to dense, 95 % |", "|---|---|---|---|---|"]
    for found in test.classes:
        difference = "" if found.difference is None else _shown(found.difference, signed=True)
        rows.append(
            f"| {found.name} | {found.cases} | {found.measure} | {_shown(found.value)} | {difference} |"
        )
    return "\n".join(rows)


def _distances(test: TestResult) -> str:
    if not test.distances:
        return ""
    head = "| class | HD95, mean | median | cases | missed in | invented in |"
    rows = ["", "", head, "|---|---|---|---|---|---|"]
    for found in test.distances:
        mean, median = (
            "" if value is None else f"{value:.2f} {found.unit}" for value in (found.mean, found.median)
        )
        rows.append(
            f"| {found.name} | {mean} | {median} | {found.cases} | {found.missed} | {found.invented} |"
        )
    return "\n".join(rows)


def _costs(facts: Facts) -> str:
    costs, dense = facts.description.costs, facts.description.dense_costs
    if not costs:
        return "Not recorded."
    rows = ["| | this network | of dense |", "|---|---|---|"]
    for name, label, scale in (
        ("flops", "MFLOPs an image or patch", 1e6),
        ("params", "parameters, thousand", 1e3),
        ("activation_bytes", "peak activations, MB", 1e6),
    ):
        share = f"{100 * costs[name] / dense[name]:.1f} %" if dense.get(name) else ""
        rows.append(f"| {label} | {costs[name] / scale:,.2f} | {share} |")
    return "\n".join(rows) + _latency(facts.latency)


def _latency(rows: Iterable[dict[str, Any]]) -> str:
    measured = [row for row in rows if row.get("median_ms") is not None]
    if not measured:
        return "\n\nLatency was not measured."
    lines = ["", "", "| runtime | batch | device | median ms | 10 to 90 % |", "|---|---|---|---|---|"]
    for row in measured:
        spread = f"{row['low_ms']:.2f} to {row['high_ms']:.2f}"
        lines.append(
            f"| {row['runtime']} | {row['batch']} | {row['device']} ({row['machine']}) | "
            f"{row['median_ms']:.2f} | {spread} |"
        )
    return "\n".join(lines)


def _own_limits(facts: Facts) -> tuple[str, ...]:
    final = facts.final
    pruned = () if facts.dense else (_PRUNED,)
    if final is None or final.test is None:
        return (
            *pruned,
            "It was never tested on held-out images: the figures above flatter.",
        )
    rare = [found.name for found in final.test.classes if found.cases < 30]
    if not rare:
        return pruned
    return (
        *pruned,
        f"Fewer than 30 test cases show {', '.join(rare)}: little is known about them.",
    )


def _shown(found: Estimate, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"
