"""The settings of an evaluation: network, data, task, recipe, proxy. Closed, frozen, from TOML.

`search.config` composes them with the search's own into a campaign.
"""

import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """A table of settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class NetworkSettings(Settings):
    """Where the network comes from."""

    factory: str = Field(description="module:callable that returns the torch.nn.Module")
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the factory")
    weights: str | None = Field(None, description=".safetensors or .pt file; without it the recipe trains it")
    weights_key: str | None = Field(None, description="key of the state dict inside the checkpoint")
    bundle: str | None = Field(None, description="folder of a MONAI bundle, instead of all that")
    nnunet: str | None = Field(None, description="checkpoint of nnU-Net, instead of all that")

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, given: Any) -> Any:
        """A bundle or a checkpoint says the rest; arguments that are given beside it replace its own."""
        if not isinstance(given, dict) or "factory" in given:
            return given
        if given.get("bundle") and given.get("nnunet"):
            raise ValueError("bundle and nnunet are two networks; leave one out")
        if given.get("bundle"):
            from evaluators import bundles

            found = bundles.settings_of(given["bundle"])
        elif given.get("nnunet"):
            from evaluators import nnunet

            found = nnunet.settings_of(given["nnunet"])
        else:
            return given
        arguments = found["arguments"] | given.get("arguments", {})
        return found | given | {"arguments": arguments}


class DataSettings(Settings):
    """Which images, and what is done to them before a network sees them."""

    source: str | tuple[str, ...] = Field(
        description="medmnist:NAME, npz:PATH, folder:, decathlon:, nnunet: or dicom:PATH, phantom:KIND; "
        "several are joined, split by split"
    )
    train_limit: int | None = Field(
        None, ge=1, description="use at most this many training cases, stratified"
    )
    val_limit: int | None = Field(
        None, ge=1, description="use at most this many validation cases, stratified"
    )
    folds: int = Field(
        1, ge=1, le=10, description="cross-fitting: train and val in so many parts, each held out once"
    )
    normalise: Literal["zscore", "unit", "symmetric", "percentile", "case", "none"] = Field(
        "zscore", description="what the network expects: training mean and deviation, 0 to 1, -1 to 1, ..."
    )
    shares: tuple[float, float, float] = Field(
        (0.7, 0.15, 0.15), description="of train, val, test where the source is not split; by patient"
    )
    split_seed: int = Field(0, ge=0, description="of splits that the source does not have")
    patient: str | None = Field(
        None, description="regular expression whose first group in a file's name is the patient"
    )
    size: tuple[int, ...] | None = Field(
        None, description="images are resized to this; volumes of known spacing cropped or padded"
    )
    spacing: tuple[float, ...] | None = Field(None, description="volumes are resampled to this, in mm")
    patch: tuple[int, ...] | None = Field(None, description="size of the patches of volumes with masks")
    patches: int = Field(4, ge=1, description="patches a volume, half of them on foreground")
    whole: bool = Field(
        True, description="the rung full measures val volumes whole, a window of data.patch sliding over them"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the source, as phantom sizes"
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """One or several."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @field_validator("shares")
    @classmethod
    def _adds_up(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(shares) < 0 or shares[0] <= 0 or shares[1] <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError("shares of train, val and test must add up to 1, and only test may be 0")
        return shares

    @field_validator("source", "size", "spacing", "patch")
    @classmethod
    def _is_usable(cls, given: Any) -> Any:
        if given is not None and not given:
            raise ValueError("the list is empty; leave it out")
        numbers = given if isinstance(given, tuple) and not isinstance(given[0], str) else None
        if numbers and (not 2 <= len(numbers) <= 3 or min(numbers) <= 0):
            raise ValueError("two or three positive numbers are needed")
        return given

    @field_validator("patient")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"no regular expression: {error}") from None
            if groups < 1:
                raise ValueError("put the patient's part between parentheses, as ^([^_]+)_")
        return pattern


class TaskSettings(Settings):
    """What the network is for and how it is judged."""

    kind: Literal["classification", "multilabel", "segmentation", "regression", "embedding"] = (
        "classification"
    )
    metric: str | None = Field(
        None,
        description="auc, accuracy, balanced_accuracy; dice; r2, mae_skill, concordance; default by kind",
    )
    regions: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="segmentation: overlapping regions, by name the mask values in them"
    )
    standardise: bool = Field(
        True,
        description="regression: the network's output is in standard deviations from the training mean; "
        "false: in the targets' own units",
    )
    evaluator: str | None = Field(
        None, description="module:callable of your own, called as (model, rung, seed), instead of all that"
    )
    chance: float | None = Field(
        None, description="evaluator: what a network that has learnt nothing reaches"
    )

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.regions and self.kind != "segmentation":
            raise ValueError("regions are for kind = 'segmentation'")
        if any(not values for values in self.regions.values()):
            raise ValueError("every region needs at least one mask value")
        if self.chance is not None and self.evaluator is None:
            raise ValueError("chance is known for all metrics but an evaluator's own; leave it out")
        return self


class AugmentationSettings(Settings):
    """How far training images are changed at random; the defaults mirror and shift."""

    mirror: bool = Field(True, description="left and right; masks along all axes")
    shift: float = Field(1 / 14, ge=0, le=0.5, description="at most, in shares of the image size")
    rotate: float = Field(0.0, ge=0, le=180, description="at most, in degrees; in 3-D around every axis")
    scale: float = Field(0.0, ge=0, le=1, description="at most larger or smaller by this share")
    contrast: float = Field(0.0, ge=0, le=2, description="at most stronger or weaker by this share")
    brightness: float = Field(0.0, ge=0, le=3, description="at most, in standard deviations of the images")
    noise: float = Field(0.0, ge=0, le=3, description="Gaussian, at most, in standard deviations")


class TrainingSettings(Settings):
    """What recipe and proxy have in common: the optimiser and what it sees."""

    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd has Nesterov momentum")
    batch_size: int = Field(32, ge=1, description="images per step")
    learning_rate: float = Field(
        0.05, gt=0, description="at its peak: a short warm-up, then a cosine to zero"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd; 0: plain")
    weight_decay: float = Field(5e-4, ge=0, description="L2 of sgd, decoupled of adamw; on all parameters")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of a step's gradients")
    augment: bool = Field(True, description="whether training images are changed at random")
    augmentation: AugmentationSettings = Field(AugmentationSettings(), description="how")
    balanced: bool = Field(False, description="every class is seen equally often")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of training; auto: mixed on GPUs, float32 on CPUs (bfloat16 may take half the time)",
    )


class RecipeSettings(TrainingSettings):
    """How the dense network is trained."""

    epochs: float = Field(20, gt=0, description="passes over the training images")
    seed: int = Field(0, ge=0, lt=2**63, description="of initial weights, batches and augmentation")
    threads: int = Field(2, ge=1, description="CPU threads; sums in another order are other weights")


class ProxySettings(TrainingSettings):
    """The cheap evaluation of a candidate: prune, adapt, measure on val. See `evaluators.rungs.table`."""

    rung: Literal["recalibrate", "shared", "finetune", "full"] = Field(
        "finetune", description="how thoroughly candidates are evaluated"
    )
    start: Literal["dense", "shared"] = Field(
        "dense", description="weights that finetune and full start from"
    )
    epochs: float = Field(2, ge=0, description="finetune: passes over the subset")
    full_epochs: float = Field(10, gt=0, description="full: passes over all training images")
    shared_epochs: float = Field(20, gt=0, description="passes of the joint training")
    train_limit: int | None = Field(None, ge=1, description="size of the stratified training subset")
    learning_rate: float = Field(
        0.02, gt=0, description="at its peak: a short warm-up, then a cosine to zero"
    )
    distill: float = Field(
        0.0, ge=0, le=1, description="share of the loss that is about imitating the dense network"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(1, ge=1, description="CPU threads of one evaluation")


class FinaliseSettings(Settings):
    """The full fine-tune of chosen networks, dense among them. What is not set is as [proxy] has it."""

    epochs: float | None = Field(
        None, gt=0, description="passes over all training images; default proxy.full_epochs"
    )
    start: Literal["dense", "shared"] | None = Field(None, description="weights to start from")
    learning_rate: float | None = Field(None, gt=0, description="at its peak")
    weight_decay: float | None = Field(None, ge=0)
    distill: float | None = Field(
        None, ge=0, le=1, description="share of the loss that is about imitating the dense network"
    )
    search: bool = Field(
        False,
        description="whether learning rate, weight decay and distill are searched, by ASHA on val; Ray only",
    )
    runs: int = Field(8, ge=2, description="of that search, for every network the same ones")


class LatencySettings(Settings):
    """The target whose milliseconds count, and how a model of them is fitted."""

    runtime: Literal["eager", "compile", "onnx"] = Field("eager", description="what runs the networks")
    batch: int = Field(1, ge=1, description="images a call")
    threads: int = Field(1, ge=1, description="CPU threads")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    networks: int = Field(40, ge=15, description="measured when the campaign starts, to fit the model")
    rounds: int = Field(6, ge=1, description="turns of each of them; more on a busy machine")
    table: str | None = Field(
        None, description="file of `paretoprune latency CAMPAIGN.toml --fit FILE`, from the target itself"
    )
