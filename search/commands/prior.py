"""`paretoprune prior`: learn from past campaigns, look at what was learnt, and test it."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

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
    from search.display.priors import print_prior
    from search.prior.corpus import read_corpus
    from search.prior.evaluation import fit_prior
    from search.prior.file import check_out, save_prior

    check_out(out)
    campaigns, skipped = read_corpus(map(_url, stores))
    for reason in skipped:
        print(f"left out {reason}", file=sys.stderr)
    prior = save_prior(fit_prior(campaigns), out)
    print_prior(prior)
    print(f"prior: {out}")


@app.command()
def show(file: PriorFile, format: Format = "table") -> None:
    """Show what a prior was learnt from, and what leave-one-data-set-out found."""
    from dataclasses import asdict

    from search.display.printing import print_json
    from search.display.priors import print_prior
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
    print_prior(prior)


@app.command()
def evaluate(file: PriorFile, stores: Stores, format: Format = "table") -> None:
    """Test a prior on the campaigns of these stores, each without what was learnt on its own data.

    Log densities in nats per network: how well what came after the ladder was foreseen, by the prior, by the
    gradients' scan, and by the flat prior. Higher is better.
    """
    from search.display.printing import print_json
    from search.display.priors import print_assessment
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
    print_assessment(rows)


def _url(store: str) -> str:
    from spaces.errors import InputError

    if not store or store.endswith(".safetensors"):
        raise InputError(
            f"{store!r} is no store: name one that `paretoprune run` made, as paretoprune.db, and with --out "
            "the file that the prior is to be written to"
        )
    return store if "://" in store else f"sqlite:///{store}"
