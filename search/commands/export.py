"""The command `paretoprune export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from search.commands.options import DEFAULT_STORE, CampaignId, LogFile, Quiet, StoreUrl, Verbose, monitor_of
from spaces.errors import ConfigError


def export(
    campaign: CampaignId,
    point: Annotated[
        str, typer.Option(metavar="N", help="A finalised network: its number in `front`, or dense.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.")],
    format: Annotated[
        Literal["pt2", "onnx", "safetensors", "bundle"],
        typer.Option(
            metavar="FORM", help="pt2: a torch.export program; onnx; safetensors: weights; bundle: MONAI's."
        ),
    ] = "pt2",
    with_preprocessing: Annotated[
        bool,
        typer.Option("--with-preprocessing", metavar="", help="Normalise intensities inside the program."),
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="ONNX: version of the operator set.")] = None,
    store: StoreUrl = DEFAULT_STORE,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
) -> None:
    """Write a finalised network in a form that others run, with a model card; checked against the network.

    `paretoprune finalise ID --points N` comes first.
    """
    if opset is not None and format != "onnx":
        raise ConfigError(f"--opset is for onnx; {format} has none: leave it out")
    monitor = monitor_of(quiet, verbose, log_file)
    from evaluators.deploy.exporting import export_network
    from search.finals.exports import finalised_folder
    from search.store.archive import Store

    with Store(store, create=False) as archive:
        found = finalised_folder(archive, campaign, point)
    options = {} if opset is None else {"opset": opset}
    with (
        monitor.stopping("stopped; nothing was written: the same command begins again"),
        monitor.stage(f"exporting {found.path.name} as {format}") as advance,
    ):
        made = export_network(
            found.path,
            format,
            out,
            preprocessing=with_preprocessing,
            factory=found.factory,
            progress=advance,
            **options,
        )
    print(made)
