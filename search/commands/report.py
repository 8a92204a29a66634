"""The command `paretoprune report`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.commands.options import DEFAULT_STORE, LogFile, Quiet, StoreUrl, Verbose, monitor_of

if TYPE_CHECKING:
    from reports.campaign import CampaignReport
    from search.store.archive import Store


def report(
    campaigns: Annotated[list[str], typer.Argument(metavar="ID...", help="One or several campaigns.")],
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    png: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write every figure there, as PNG and SVG.", show_default=False),
    ] = None,
    with_images: Annotated[
        bool,
        typer.Option(
            "--with-images",
            metavar="",
            help="Write a second file, NAME-with-images.html, of validation images with predictions.",
        ),
    ] = False,
    store: StoreUrl = DEFAULT_STORE,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Write one self-contained HTML page about one or several campaigns.

    The page holds no image and nothing about single cases. `--with-images` puts example images into a file
    of their own, which is as private as the images are; it needs the data, and finalised networks.
    """
    monitor = monitor_of(quiet, verbose, log_file)
    from reports.page import write_report
    from search.store.archive import Store
    from search.summary import campaign_summary

    with Store(store, create=False) as archive:
        summaries = [
            _with_prior(campaign_summary(archive, each), archive) for each in dict.fromkeys(campaigns)
        ]
    print(write_report(summaries, out))
    if png is not None:
        from reports.pictures import write_pictures

        print(f"{len(write_pictures(summaries, png))} pictures in {png}", file=sys.stderr)
    if with_images:
        from search.examples import write_examples

        print(write_examples([summary.id for summary in summaries], store, out, monitor))


def _with_prior(summary: "CampaignReport", store: "Store") -> "CampaignReport":
    """What the prior foresaw beside what came, recomputed from the records; nothing where there was none."""
    from search.prior.history import expert_weights, group_damage

    return replace(
        summary,
        prior_outcome=group_damage(store, summary.id),
        prior_weights=expert_weights(store, summary.id),
    )
