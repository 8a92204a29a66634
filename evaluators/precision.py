"""In which number format a network trains: part of what decides an evaluation's result.

Mixed precision (torch's autocast) trains in half the time or less. On GPUs it is the default. On CPUs with
bfloat16 instructions it must be asked for (`precision = "bfloat16"`): other processors would find other
numbers. Measured on a core of an AMD EPYC with AVX512-BF16, time of a training step to that in float32:
ResNet-18 .52 at 64 pixels and .57 at 28, UNet at 128 pixels .47, DynUNet in 3-D .39. Channels-last pays
there for some networks only (.69, 1.14, .98, .80; with bfloat16 little more), so it is for GPUs.
Measuring is always in float32. Norm layers keep their statistics in float32, and 3-D convolutions of volumes
smaller than their kernel run in it (`_SmallVolumes`).
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from evaluators.settings import ProxySettings, TrainingSettings
from spaces.errors import ConfigError

FORMATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first visible GPU, else the CPU.

    Raises:
        ConfigError: A GPU is asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device = {name!r}, but PyTorch sees {torch.cuda.device_count()} CUDA GPUs here; "
            "set proxy.device = 'cpu', or give each worker a share with execution.gpus_per_worker"
        )
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The number format of that name; "auto" is bfloat16 (float16 on old ones) on GPUs, float32 on CPUs."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "float32"
    if not torch.cuda.is_available():  # a driver without a GPU, of workers with one
        return "bfloat16"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def pinned(settings: ProxySettings, device: str | None = None) -> ProxySettings:
    """The settings with nothing left to the machine: a workload's evaluations are the same on all workers.

    Args:
        settings: As configured.
        device: What "auto" means; default: what is found here.

    Raises:
        ConfigError: A number format that the device has not.
    """
    chosen = settings.device
    if chosen == "auto":
        chosen = device or resolve_device("auto").type
    where = torch.device(chosen)
    precision = resolve_precision(settings.precision, where)
    if precision == "float16" and where.type == "cpu":
        raise ConfigError("proxy.precision = 'float16' is for GPUs; on CPUs take 'bfloat16' or 'float32'")
    return settings.model_copy(update={"device": chosen, "precision": precision})


class _SmallVolumes(TorchFunctionMode):
    """Convolutions in float32 where an edge of the volume is shorter than the kernel's.

    With torch 2.13 on a CPU with bfloat16 instructions, the weight gradient of these (as of 3 x 3 x 3 over
    2 x 2 x 2 voxels, padded) came out in bfloat16 as values of 1e30 and more; one update with them, and what
    follows has an infinite variance. All other sizes tried were right, in 2-D small ones too.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in (torch.conv3d, torch.conv_transpose3d):
            image, weight = [*args, *(named[name] for name in ("input", "weight") if name in named)][:2]
            if any(edge < kernel for edge, kernel in zip(image.shape[-3:], weight.shape[-3:], strict=True)):
                with torch.autocast("cpu", enabled=False):
                    return func(*map(_exact, args), **{name: _exact(value) for name, value in named.items()})
        return func(*args, **named)


def _exact(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


class Precision:
    """Forward passes and updates in a number format.

    Args:
        settings: Of the training.
        device: Where it trains.
        ndim: Dimensions of a batch of images.
    """

    def __init__(self, settings: TrainingSettings, device: torch.device, ndim: int) -> None:
        name = resolve_precision(settings.precision, device)
        self._half = FORMATS.get(name)
        self._device = device.type
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        self._layout = layouts.get(ndim) if device.type == "cuda" else None
        self._clip_norm = settings.clip_norm
        self._ndim = ndim

    def prepare(self, network: nn.Module) -> None:
        """Lay out the weights as suits the device, in place."""
        if self._layout is not None:
            network.to(memory_format=self._layout)  # type: ignore[call-overload]  # torch's stubs lack it

    def lay_out(self, images: torch.Tensor) -> torch.Tensor:
        """The images, laid out like the weights."""
        return images if self._layout is None else images.contiguous(memory_format=self._layout)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """In which to run a network."""
        if self._half is None:
            return contextlib.nullcontext()
        stack = contextlib.ExitStack()
        stack.enter_context(torch.autocast(self._device, dtype=self._half))
        if self._device == "cpu" and self._ndim == 5:
            stack.enter_context(_SmallVolumes())
        return stack

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to what is there, scaled as the format needs it until the `update`."""
        self._scaler.scale(loss).backward()

    def update(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Clip the gradients where that was asked for, and take a step."""
        if self._clip_norm is not None:
            self._scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(network.parameters(), self._clip_norm)
        self._scaler.step(optimiser)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """What a training that goes on later needs: the scale of the loss."""
        return self._scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """Go on with that state."""
        self._scaler.load_state_dict(state)

    def step(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, loss_of: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Forward, backward and update; returns the loss, detached."""
        with self.autocast():
            loss = loss_of()
        self.backward(loss)
        self.update(network, optimiser)
        return loss.detach()
