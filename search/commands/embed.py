"""The command `paretoprune embed`."""

from pathlib import Path
from typing import Annotated

import typer

from search.commands.options import LogFile, Quiet, Verbose, monitor_of


def embed(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A saved network: of `save`, `finalise` or `export`.")
    ],
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Images, as npz:FILE or folder:DIR; or a campaign file.")
    ],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")] = Path("features.parquet"),
    test: Annotated[
        bool, typer.Option("--test", metavar="", help="The test split, instead of train and val.")
    ] = False,
    layer: Annotated[
        str | None, typer.Option(help="Module whose output is taken; default: the embedding.")
    ] = None,
    factory: Annotated[
        str | None, typer.Option(help="module:callable, where the network is code of your own.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Write a saved network's features of images: one row a case, patients as salted hashes, no labels."""
    monitor = monitor_of(quiet, verbose, log_file)
    from evaluators.deploy.embedding import USUAL, Split
    from evaluators.deploy.embedding import embed as write
    from evaluators.settings import DataSettings
    from search.config import load_config

    data = load_config(source).data if source.endswith(".toml") else DataSettings(source=source)
    splits: tuple[Split, ...] = ("test",) if test else USUAL
    with (
        monitor.stopping("stopped; nothing was written: the same command begins again"),
        monitor.stage(f"features of {' and '.join(splits)}") as advance,
    ):
        made = write(folder, data, out, splits=splits, layer=layer, factory=factory, progress=advance)
    print(made)
