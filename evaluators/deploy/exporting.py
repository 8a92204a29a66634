"""A saved network in a form that others run: `paretoprune export`, and `paretoprune.export` in Python."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch

from evaluators import nnunet
from evaluators.deploy import onnx, pt2
from evaluators.deploy.bundle import loading_code, write_bundle
from evaluators.deploy.card import model_card
from evaluators.deploy.facts import Facts, read_facts
from evaluators.deploy.files import unwritable
from evaluators.deploy.own_class import own_class
from evaluators.deploy.program import LOADING, STEPS, WRITING, Program
from evaluators.deploy.saving import DESCRIPTION, WEIGHTS, load_network
from evaluators.stepwise import Progress
from spaces.errors import ConfigError, InputError, did_you_mean

Format: TypeAlias = Literal["pt2", "onnx", "safetensors", "bundle"]

CARD, DEPLOYMENT = "MODEL_CARD.md", "deployment.json"


def export_network(
    folder: str | Path,
    format: str,
    out: str | Path,
    *,
    preprocessing: bool = False,
    opset: int = onnx.USUAL,
    factory: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a saved network in a form that others run, and check that it answers the same.

    Args:
        folder: What `save` or `finalise` wrote.
        format: "pt2", "onnx", "safetensors" or "bundle".
        out: A new folder, or an empty one.
        preprocessing: pt2 and onnx: normalise intensities inside the program.
        opset: onnx: version of the operator set.
        factory: As for `load`.
        progress: Told of every step.

    Returns:
        The folder. Besides the network it holds a model card and `deployment.json`: preprocessing, labels,
        figures, checksums.

    Raises:
        InputError: No such format, a folder that cannot be written or is not empty, a network that this
            format cannot hold.
        RunError: The exported network answers otherwise.
    """
    if format not in get_args(Format):
        raise InputError(f"there is no format {format!r}; {did_you_mean(format, get_args(Format))}")
    if preprocessing and format not in ("pt2", "onnx"):
        raise ConfigError(
            f"--with-preprocessing is for pt2 and onnx; {format} "
            + ("has it in its configuration" if format == "bundle" else "holds weights")
        )
    if format == "onnx":
        onnx.check_opset(opset)
    folder = Path(folder)

    def begin(step: str) -> None:
        if progress:
            progress(STEPS.index(step), len(STEPS), step)

    with _made(Path(out)) as place:
        begin(LOADING)
        facts = read_facts(folder)
        network = load_network(folder, factory=factory)
        program = Program(network, facts.description, preprocessing=preprocessing)
        known = facts.as_json()
        if preprocessing:
            known["input"] |= {"normalisation": None, "note": "raw intensities; normalised inside"}
        text = json.dumps(known, indent=1)
        if format == "pt2":
            pt2.write_pt2(program, facts.description, place / pt2.FILE, text, begin=begin)
            files, code = [f"`{pt2.FILE}`: the program and its weights"], _PT2
        elif format == "onnx":
            onnx.write_onnx(program, facts.description, place / onnx.FILE, text, opset=opset, begin=begin)
            files, code = [f"`{onnx.FILE}`: opset {opset}, batches of any size"], _ONNX
        elif format == "safetensors":
            begin(WRITING)
            for name in (WEIGHTS, DESCRIPTION):
                shutil.copyfile(folder / name, place / name)
            files = [f"`{WEIGHTS}`: weights", f"`{DESCRIPTION}`: what rebuilds the network from them"]
            files += _for_nnunet(facts, program, place)
            code = _safetensors_code(facts, program)
        else:
            code = loading_code(write_bundle(program, facts, place, begin=begin))
            files = ["`configs/`: MONAI's metadata and inference workflow", "`models/`: the network"]
        home = place / "docs" if format == "bundle" else place
        files.append(f"`{DEPLOYMENT}`: preprocessing, labels, figures and checksums, for machines")
        (home / DEPLOYMENT).write_text(
            json.dumps(known | {"format": format, "sha256": _checksums(place)}, indent=1), encoding="utf-8"
        )
        card = model_card(facts, files, code)
        (home / ("README.md" if format == "bundle" else CARD)).write_text(card, encoding="utf-8")
    if progress:
        progress(len(STEPS), len(STEPS))
    return Path(out)


@contextmanager
def _made(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it when all went well."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} is there already, and not empty; choose another --out")
    place = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        place.chmod(0o755)
        yield place
        os.replace(place, out)
    except OSError as error:
        raise unwritable(out, error) from None
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _checksums(place: Path) -> dict[str, str]:
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def _for_nnunet(facts: Facts, program: Program, place: Path) -> list[str]:
    """nnU-Net's own files, where its class builds the network."""
    about = facts.description
    if about.factory != nnunet.FACTORY or own_class(about, program.network) is None:
        return []
    arguments = about.arguments | (about.constructor_arguments or {})
    architecture = json.dumps(nnunet.architecture_of(arguments), indent=1)
    torch.save({"network_weights": program.network.state_dict()}, place / "checkpoint_final.pth")
    (place / "architecture.json").write_text(architecture, encoding="utf-8")
    return [
        "`checkpoint_final.pth`: the weights as nnU-Net names them, for a copy of the trained folder",
        '`architecture.json`: the block "architecture" of its plans.json',
    ]


def _safetensors_code(facts: Facts, program: Program) -> str:
    about = facts.description
    ours = f'import paretoprune\nnetwork = paretoprune.load(".", factory={about.factory!r})'
    own = own_class(about, program.network)
    if own is None:
        return ours
    return (
        f"{ours}\n\n# or without ParetoPrune:\n{own.code}\nfrom safetensors.torch import load_model\n"
        f'load_model(network, "{WEIGHTS}")\nnetwork.eval()'
    )


_PT2 = f"""
import torch
network = torch.export.load("{pt2.FILE}").module()
output = network(torch.zeros(1, *shape))  # the shape is under Input
"""

_ONNX = f"""
import onnxruntime
session = onnxruntime.InferenceSession("{onnx.FILE}")
output = session.run(None, {{"image": images}})[0]  # float32 arrays; the shape is under Input
"""
