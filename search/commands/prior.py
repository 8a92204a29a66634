"""`paretoprune prior`: learn from past campaigns, look at what was learnt, and test it."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from search.prior.model import LayerPrior

app = typer.Typer(no_args_is_help=True, help="What past campaigns teach the next one: fit, show, evaluate.")

Stores = Annotated[
    list[str], typer.Argument(metavar="STORE...", help="sqlite:///FILE.db or postgresql://..., or a file.")
]
PriorFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A prior that `prior fit` wrote, or builtin.")
]
Format = Annotated[Literal["table", "json"], typer.Option(help="For people or for machines.")]


@app.command()
def fit(
    stores: Stores, out: Annotated[Path, typer.Option(help="The file to write.")] = Path("prior.safetensors")
) -> None:
    """Learn a prior from every campaign of these stores; `run --prior FILE` uses it."""
    from search.prior.corpus import read_corpus
    from search.prior.evaluation import fit_prior
    from search.prior.file import save_prior

    campaigns, skipped = read_corpus(map(_url, stores))
    for reason in skipped:
        print(f"left out {reason}", file=sys.stderr)
    prior = save_prior(fit_prior(campaigns), out)
    _print_prior(prior)
    print(f"prior: {out}")


@app.command()
def show(file: PriorFile, format: Format = "table") -> None:
    """Show what a prior was learnt from, and what leave-one-data-set-out found."""
    from dataclasses import asdict

    from search.display.printing import print_json
    from search.prior.file import load_prior

    prior = load_prior(file)
    if format == "json":
        print_json(
            {
                "sha256": prior.sha256,
                "choice": asdict(prior.choice),
                "campaigns": [asdict(lesson.origin) for lesson in prior.lessons],
                "quality": dict(prior.quality),
            }
        )
        return
    _print_prior(prior)


@app.command()
def evaluate(file: PriorFile, stores: Stores, format: Format = "table") -> None:
    """Test a prior on the campaigns of these stores, each without what was learnt on its own data.

    Log densities in nats per network: how well what came after the ladder was foreseen, by the prior, by the
    gradients' scan, and by the flat prior. Higher is better.
    """
    from search.display.printing import print_json
    from search.prior.corpus import read_corpus
    from search.prior.evaluation import assess
    from search.prior.file import load_prior

    prior = load_prior(file)
    campaigns, skipped = read_corpus(map(_url, stores))
    rows = assess(prior, campaigns)
    if format == "json":
        print_json({"sha256": prior.sha256, "campaigns": rows, "left_out": skipped})
        return
    for reason in skipped:
        print(f"left out {reason}", file=sys.stderr)
    names = ("lessons", "networks", "meta", "scan", "flat", "coverage", "outside")
    print(f"{'campaign':<28}" + "".join(f"{name:>10}" for name in names))
    for row in rows:
        print(f"{row['campaign']:<28}" + "".join(f"{_shown(row.get(name)):>10}" for name in names))


def _url(store: str) -> str:
    return store if "://" in store else f"sqlite:///{store}"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _print_prior(prior: "LayerPrior") -> None:
    choice, quality = prior.choice, prior.quality
    sources = sorted({lesson.origin.source for lesson in prior.lessons})
    networks = {lesson.origin.network for lesson in prior.lessons}
    trials = sum(lesson.origin.trials for lesson in prior.lessons)
    print(
        f"{len(prior.lessons)} campaigns, {trials} networks measured, on {len(sources)} data sets "
        f"({', '.join(sources)}) and {len(networks)} architectures"
    )
    values = Counter(lesson.origin.value for lesson in prior.lessons)
    print("damage of: " + ", ".join(f"{value} ({n})" for value, n in sorted(values.items())))
    model = choice.kind if choice.kind in ("mean", "trees") else f"{choice.kind} {choice.strength:g}"
    print(f"model: {model}, doubt {choice.doubt:g}")
    if "unknown" in quality:
        print(f"not tested: {quality['unknown']}")
        return
    print("left out in turn; log density of what came after the ladder, nats a network:")
    for source, row in quality["data_sets"].items():
        print(
            f"  {source:<28} prior {_shown(row['density'])}, flat {_shown(row['flat_density'])}, "
            f"in 90 % intervals {_shown(row['coverage'])}"
        )
    print(f"  gain {_shown(quality['gain_nats'])} ± {_shown(quality['gain_error'])}")
