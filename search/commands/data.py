"""`paretoprune data`: what sources there are, what is in them, and how they are kept."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spaces.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Images: list, fetch, inspect, encrypt and clean them.")

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="As data.source: npz:FILE, medmnist:NAME, ...")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="data.KEY=VALUE", help="A setting of [data], as data.size=[64,64]."),
]
Format = Annotated[Literal["table", "json"], typer.Option(help="For people or for machines.")]


@app.command("list")
def list_sources(format: Format = "table") -> None:
    """List how sources are written, and the MedMNIST sets with their sizes and classes."""
    from evaluators.data.medmnist_sets import SETS
    from evaluators.data.sources import source_names
    from search.display.data import print_sources
    from search.display.printing import print_json

    sets = {
        name: {"sizes": list(known.md5), "classes": known.classes, "licence": known.licence}
        for name, known in SETS.items()
    }
    if format == "json":
        print_json({"sources": source_names(), "medmnist": sets})
    else:
        print_sources(source_names(), sets)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="medmnist:NAME")],
    size: Annotated[int, typer.Option(help="28, 64, 128 or 224 pixels.")] = 28,
) -> None:
    """Download a MedMNIST set into the cache, its checksum verified; nothing happens if it is there."""
    from evaluators.data.medmnist import fetch as download

    print(download(name.removeprefix("medmnist:"), size))


@app.command()
def inspect(
    source: Source,
    overrides: Overrides = None,
    format: Format = "table",
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Draw training images of every class: patients, so only if asked."
        ),
    ] = None,
) -> None:
    """Read a source and say what is in it: sizes, classes, patients, duplicates, intensities."""
    from evaluators.data.sheet import write_sheet
    from evaluators.data.sources import load_splits
    from search.display.data import print_data
    from search.display.printing import print_json

    splits = load_splits(_settings(source, overrides))
    if sheet is not None:
        write_sheet(splits, sheet)
    found = splits.describe()
    images = splits.train.images
    found["intensities"] = {
        "stored_as": str(images.dtype),
        "lowest": float(images.min()),
        "highest": float(images.max()),
    }
    if format == "json":
        print_json(found)
    else:
        print_data(found)


@app.command()
def encrypt(
    source: Source,
    out: Annotated[Path, typer.Option(help="The file to write; read it as npz:FILE.")],
    overrides: Overrides = None,
) -> None:
    """Write a source as one AES-256-GCM encrypted file, under the key in $PARETOPRUNE_KEY or its file."""
    from evaluators.data.packs import as_npz
    from evaluators.data.sealed import seal
    from evaluators.data.sources import load_splits

    content = seal(as_npz(load_splits(_settings(source, overrides))))
    try:
        out.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error.strerror}") from None
    print(f"{out}: {len(content):,} bytes")


@app.command()
def clean(
    days: Annotated[int, typer.Option(min=0, help="Remove what was not used for so long; 0: all.")] = 30,
) -> None:
    """Remove decoded images from the cache; they are read from their files again when they are needed."""
    from evaluators.data.packs import clean as remove

    removed, kept = remove(days)
    print(
        f"removed {len(removed)} sets, {sum(removed) / 1e6:,.1f} MB; kept {len(kept)}, "
        f"{sum(kept) / 1e6:,.1f} MB"
    )


def _settings(source: str, overrides: list[str] | None) -> Any:
    from pydantic import ValidationError

    from evaluators.settings import DataSettings
    from search.config import override

    table = override({"data": {"source": source}}, overrides or [])
    if set(table) != {"data"}:
        raise ConfigError("--set takes settings of [data] only here, as data.size=[64,64]")
    try:
        return DataSettings.model_validate(table["data"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"data.{key} = {first['input']!r}: {first['msg'].lower()}") from None
