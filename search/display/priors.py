"""Priors and how they were tested, as text for people, within 80 columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from search.prior.model import Choice, LayerPrior

_NAMES = 26  # columns of a name


def print_prior(prior: LayerPrior) -> None:
    """What a prior was learnt from, its model, and what leaving data sets out found."""
    sources = Counter(lesson.origin.source for lesson in prior.lessons)
    networks = {lesson.origin.network for lesson in prior.lessons}
    trials = sum(lesson.origin.trials for lesson in prior.lessons)
    found = (
        f"{_count(len(prior.lessons), 'campaign')}, {_count(trials, 'network')} measured, "
        f"on {_count(len(sources), 'data set')} and {_count(len(networks), 'architecture')}"
    )
    print(found)
    for source, n in sorted(sources.items()):
        print(f"  {_cut(source, 56)}  {_count(n, 'campaign')}")
    values = Counter(lesson.origin.value for lesson in prior.lessons)
    print(
        "damage of: " + ", ".join(f"{value} ({_count(n, 'campaign')})" for value, n in sorted(values.items()))
    )
    print(f"model: {in_words(prior.choice)}")
    quality = prior.quality
    if "unknown" in quality:
        print(fill(f"not tested: {quality['unknown']}", 79, break_on_hyphens=False))
        print("add campaigns on a second data set")
        return
    print("\nEach data set left out in turn: how well the others foresaw what came after the")
    print("ladder, and the flat prior, without experience (log density, nats a network):")
    print(f"{'left out':<{_NAMES}}{'prior':>10}{'flat':>10}{'inside 90 % intervals':>24}")
    for source, row in quality["data_sets"].items():
        figures = _shown(row["density"]), _shown(row["flat_density"])
        covered = "-" if row["coverage"] is None else f"{row['coverage']:.0%}"
        print(f"{_cut(source):<{_NAMES}}{figures[0]:>10}{figures[1]:>10}{covered:>24}")
    gain, error = quality["gain_nats"], quality["gain_error"]
    print(f"gain over the flat prior: {_shown(gain)} ± {_shown(error)} (standard error over data sets)")


def print_assessment(rows: Sequence[Mapping[str, Any]]) -> None:
    """How well a prior foresaw campaigns, one a line."""
    columns = {"lessons": 8, "networks": 9, "meta": 9, "scan": 9, "flat": 9}
    titles = {"meta": "prior"}
    heads = "".join(f"{titles.get(name, name):>{width}}" for name, width in columns.items())
    print(f"{'campaign':<{_NAMES}}{heads}{'inside':>8}")
    for row in rows:
        cells = "".join(f"{_shown(row.get(name)):>{width}}" for name, width in columns.items())
        coverage = row.get("coverage")
        print(f"{_cut(row['campaign']):<{_NAMES}}{cells}{'-' if coverage is None else f'{coverage:.0%}':>8}")
    print("How well what came after the ladder was foreseen (log density, nats a network;")
    print("higher is better): by lessons on other data, by gradients alone, by neither.")
    print("inside: share of these networks inside the prior's 90 % intervals.")
    if alone := sum(not row["lessons"] for row in rows):
        print(f"{_count(alone, 'campaign')} without lessons: the prior has learnt from the same data only")
    if strange := sum(row.get("outside", 0) > 0 for row in rows):
        print(f"{_count(strange, 'campaign')} with groups outside of its experience, doubted more")


def in_words(choice: Choice) -> str:
    """A model, how strongly it learns, and how much it doubts itself."""
    model = {
        "mean": "all groups alike, nothing is transferred",
        "log": f"log-linear, drawn towards the gradients' scan, strength {choice.strength:g}",
    }[choice.kind]
    if choice.kind == "log" and not choice.strength:
        model = "the gradients' scan, nothing learnt beyond it"
    return f"{model}; doubt {choice.doubt:g}"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" + "s" * (n != 1)


def _cut(name: str, width: int = _NAMES - 1) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
