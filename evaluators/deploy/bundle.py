"""A MONAI bundle: `python -m monai.bundle run` applies the network to a folder of images, without us."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from evaluators.deploy.facts import Facts
from evaluators.deploy.own_class import OwnClass, own_class
from evaluators.deploy.program import WRITING, Begin, Program, unheard
from evaluators.deploy.pt2 import write_pt2

_RUN = "python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES"


def write_bundle(program: Program, facts: Facts, folder: Path, *, begin: Begin = unheard) -> OwnClass | None:
    """Write the bundle.

    Args:
        program: Of the network, without preprocessing: the bundle's configuration does that.
        facts: About it.
        folder: To write into.
        begin: Told of every step.

    Returns:
        How MONAI's own class builds the network; None where it cannot, so that the bundle holds a
        `torch.export` program instead.

    Raises:
        NetworkError: It cannot be captured either.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    own = own_class(facts.description, program.network)
    if own is not None:
        begin(WRITING)
        torch.save(program.network.state_dict(), folder / "models" / "model.pt")
    else:
        write_pt2(program, facts.description, folder / "models" / "model.pt2", begin=begin)
    for name, content in (("metadata", _metadata(program, facts)), ("inference", _inference(facts, own))):
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4), encoding="utf-8")
    return own


def loading_code(own: OwnClass | None) -> str:
    """How to run the bundle, and how to load its network in Python, for its card."""
    if own is not None:
        loaded = 'network.load_state_dict(torch.load("models/model.pt", weights_only=True))\nnetwork.eval()'
        return f"# {_RUN}\n{own.code}\n{loaded}"
    return f'# {_RUN}\nimport torch\nnetwork = torch.export.load("models/model.pt2").module()'


def _inference(facts: Facts, own: OwnClass | None) -> dict[str, Any]:
    inferer: dict[str, Any] = {"_target_": "SimpleInferer"}
    if facts.description.task == "segmentation":  # images of any size; those of training's in one go
        roi = list(facts.description.input_shape[1:])
        inferer = {"_target_": "SlidingWindowInferer", "roi_size": roi, "sw_batch_size": 4, "overlap": 0.5}
    return {
        "imports": ["$import glob", "$import numpy", "$import os", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        **_network(own),
        "data": "$[{'image': file} for file in sorted(glob.glob(os.path.join(@dataset_dir, '*')))]",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(facts)},
        "dataset": {"_target_": "Dataset", "data": "@data", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(facts)},
        "handlers": _handlers(facts, own),
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$os.makedirs(@output_dir, exist_ok=True)", "$@evaluator.run()"],
    }


def _network(own: OwnClass | None) -> dict[str, Any]:
    if own is not None:
        return {"network_def": own.definition, "network": "$@network_def.to(@device)"}
    return {  # a program has no modes to switch, but MONAI's engines ask it to
        "program": "$torch.export.load(@bundle_root + '/models/model.pt2').module()",
        "modes": "$[setattr(@program, mode, lambda *_: None) for mode in ('eval', 'train')]",
        "network_def": "$@modes and @program",
        "network": "$@network_def.to(@device)",
    }


def _handlers(facts: Facts, own: OwnClass | None) -> list[dict[str, Any]]:
    handlers: list[dict[str, Any]] = []
    if own is not None:
        handlers.append(
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        )
    if facts.description.task != "segmentation":
        handlers.append(
            {
                "_target_": "ClassificationSaver",
                "output_dir": "@output_dir",
                "filename": "predictions.csv",
                "batch_transform": "$lambda batch: [case['image'].meta for case in batch]",
                "output_transform": "$lambda output: [case['pred'].flatten() for case in output]",
            }
        )
    return handlers


def _preprocessing(facts: Facts) -> list[dict[str, Any]]:
    about = facts.description
    channels, *spatial = about.input_shape
    load: dict[str, Any] = {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}
    if len(spatial) == 2:  # rows first, as in training; MONAI's own default is columns
        converter = f"$lambda picture: picture.convert('{'L' if channels == 1 else 'RGB'}')"
        load["reader"] = {"_target_": "PILReader", "reverse_indexing": False, "converter": converter}
    steps = [load, {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"}]
    if len(spatial) == 3:
        steps.append({"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None})
    steps += _sized(about.preparation, len(spatial))
    return steps + _normalised(about.normalisation, len(spatial))


def _sized(preparation: dict[str, Any], dims: int) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    size, spacing = preparation.get("size"), preparation.get("spacing")
    if spacing is not None:
        step: dict[str, Any] = {"_target_": "Spacingd", "keys": "image", "pixdim": spacing}
        steps.append(step | {"mode": "bilinear", "padding_mode": "border"})
    if size is not None and spacing is not None:
        steps.append(
            {"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": size, "mode": "minimum"}
        )
    elif size is not None:
        how = "mode='bilinear', antialias=True" if dims == 2 else "mode='trilinear'"
        function = f"$lambda image: torch.nn.functional.interpolate(image[None], {size}, {how})[0]"
        steps.append({"_target_": "Lambdad", "keys": "image", "func": function})
    return steps


def _normalised(found: dict[str, Any] | None, dims: int) -> list[dict[str, Any]]:
    if found is None or found["mode"] == "none":
        return []
    step: dict[str, Any] = {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}
    if found["mode"] == "case":
        return [step]
    steps: list[dict[str, Any]] = []
    if found["low"] is not None:
        column = f"reshape({', '.join(['-1'] + ['1'] * dims)})"
        low, high = (f"torch.tensor({list(found[name])}).{column}" for name in ("low", "high"))
        function = f"$lambda image: torch.clamp(image, {low}, {high})"
        steps.append({"_target_": "Lambdad", "keys": "image", "func": function})
    return [*steps, step | {"subtrahend": list(found["mean"]), "divisor": list(found["std"])}]


def _postprocessing(facts: Facts) -> list[dict[str, Any]]:
    about = facts.description
    steps: list[dict[str, Any]] = []
    if about.task == "segmentation":
        threshold = facts.activation == "sigmoid"
        if threshold:
            steps.append({"_target_": "Activationsd", "keys": "pred", "sigmoid": True})
        rule = {"threshold": 0.5} if threshold else {"argmax": True}
        if not threshold and len(about.classes) == 2:  # one channel says how far it is the second class
            function = "$lambda pred: (pred > 0).float() if len(pred) == 1 else pred.argmax(0, keepdim=True)"
            steps.append({"_target_": "Lambdad", "keys": "pred", "func": function})
        else:
            steps.append({"_target_": "AsDiscreted", "keys": "pred", **rule})
        if len(about.input_shape) == 3:  # the writer of pictures turns them back
            steps.append({"_target_": "Transposed", "keys": "pred", "indices": [0, 2, 1]})
        save = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "resample": False}
        ending = ".png" if len(about.input_shape) == 3 else ".nii.gz"
        return [
            *steps,
            save | {"output_ext": ending, "output_dtype": "$numpy.uint8", "separate_folder": False},
        ]
    if facts.activation in ("softmax", "sigmoid"):
        one = "torch.cat([1 - pred.sigmoid(), pred.sigmoid()])"
        function = f"$lambda pred: {one} if pred.numel() == 1 else pred.{facts.activation}(-1)"
        if facts.activation == "sigmoid":
            function = "$lambda pred: pred.sigmoid()"
        return [{"_target_": "Lambdad", "keys": "pred", "func": function}]
    if facts.activation == "affine" and about.units:
        centre, scale = about.units
        return [{"_target_": "Lambdad", "keys": "pred", "func": f"$lambda pred: {centre} + {scale} * pred"}]
    return []


def _metadata(program: Program, facts: Facts) -> dict[str, Any]:
    about = facts.description
    with torch.inference_mode():
        outputs = program(torch.zeros(1, *about.input_shape))
    installed = {name: importlib.metadata.version(name) for name in ("pytorch-ignite", "nibabel", "pillow")}
    channels, *spatial = about.input_shape
    metrics = {name: value for name, value in about.values.items() if value is not None}
    if facts.final is not None and facts.final.test is not None:
        metrics = {f"test {name}": value for name, value in facts.final.test.values.items()}
    classes = {str(index): name for index, name in enumerate(about.classes)}
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by ParetoPrune"},
        "monai_version": importlib.metadata.version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": installed,
        "name": facts.title,
        "task": about.task or "",
        "description": f"{about.factory.rpartition(':')[2]}; see docs/README.md",
        "authors": "",
        "copyright": "",
        "data_source": about.data or "",
        "data_type": "png, jpeg or tiff" if len(spatial) == 2 else "nifti or dicom",
        "intended_use": "Research; see docs/README.md",
        "eval_metrics": metrics,
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "num_channels": channels,
                    "spatial_shape": spatial,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": "patch" in about.preparation,
                    "channel_def": {str(i): "image" for i in range(channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image" if outputs.ndim > 2 else "probabilities",
                    "format": "segmentation" if about.task == "segmentation" else "raw",
                    "num_channels": outputs.shape[1] if outputs.ndim > 1 else 1,
                    "spatial_shape": list(outputs.shape[2:]),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": "patch" in about.preparation,
                    "channel_def": classes,
                }
            },
        },
    }
