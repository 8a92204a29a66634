"""The command `paretoprune report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from search.options import DEFAULT_STORE, LogFile, Quiet, StoreUrl, Verbose, monitor_of


def report(
    campaigns: Annotated[list[str], typer.Argument(metavar="ID...", help="One or several campaigns.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    png: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write every figure there, as PNG and SVG.", show_default=False),
    ] = None,
    with_images: Annotated[
        bool,
        typer.Option(
            "--with-images",
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
        summaries = [campaign_summary(archive, campaign) for campaign in dict.fromkeys(campaigns)]
    print(write_report(summaries, out))
    if png is not None:
        from reports.pictures import write_pictures

        print(f"{len(write_pictures(summaries, png))} pictures in {png}", file=sys.stderr)
    if with_images:
        from search.examples import write_examples

        print(write_examples([summary.id for summary in summaries], store, out, monitor))
