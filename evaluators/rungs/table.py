"""The rungs, cheapest first: where a candidate's weights come from and what happens before it is measured.

| rung | sliced from | then |
|---|---|---|
| `scout` | as `shared` if there are such weights, else dense | norm statistics from a handful of images |
| `recalibrate` | dense | norm statistics re-estimated |
| `shared` | weights trained jointly at random widths, once a campaign | norm statistics re-estimated |
| `finetune` | dense, or shared (`proxy.start`) | trained for `proxy.epochs` on the subset |
| `full` | as `finetune` | trained for `proxy.full_epochs` on all training images |

Agreement is with the dense network as it was given; at `shared` with the full width of the same weights, as
the rung leaves it: their training goes on where dense's ended, often to something better, and being unlike
dense is no fault then (`benchmarks/joint.py`). `scout`, too, is judged by its own full width, on the same
handful of training images and on nothing else: it tells a search where to look (`search/scouting.py`).

Where val holds patches of volumes, `full` measures the volumes whole, by a sliding window.

Source of `recalibrate`: Li et al. 2020 (EagleEye).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from evaluators.rungs.bench import Bench
from evaluators.rungs.recalibration import recalibrate
from evaluators.training import tune
from spaces.errors import ConfigError, did_you_mean

Adaptation: TypeAlias = Callable[[nn.Module, Bench, int], None]
"""Changes a pruned network in place; the seed decides every random choice."""


@dataclass(frozen=True)
class Rung:
    """One way to evaluate a candidate.

    Attributes:
        name: As in `Trial.rung`.
        start: The network of the bench that candidates are sliced from.
        adapt: What is done to the slice.
        own: Whether agreement is with what the rung itself makes of the full width, not with dense as given.
        whole: Whether validation volumes are measured whole where there are some, instead of by patches.
        brief: Whether agreement on a handful of images is all that is measured.
    """

    name: str
    start: Callable[[Bench], nn.Module]
    adapt: Adaptation
    own: bool = False
    whole: bool = False
    brief: bool = False


def _tune(network: nn.Module, bench: Bench, seed: int) -> None:
    tune(network, bench.subset, bench.task, bench.settings, seed=seed, teacher=bench.teacher)


def _tune_fully(network: nn.Module, bench: Bench, seed: int) -> None:
    settings = bench.settings.model_copy(update={"epochs": bench.settings.full_epochs})
    tune(network, bench.train, bench.task, settings, seed=seed, teacher=bench.teacher)


def _recalibrate(network: nn.Module, bench: Bench, seed: int) -> None:
    recalibrate(network, bench.subset.images, seed)


def _glance(network: nn.Module, bench: Bench, seed: int) -> None:
    recalibrate(network, bench.handful.images, seed)


RUNGS: Mapping[str, Rung] = {
    rung.name: rung
    for rung in (
        Rung("scout", lambda bench: bench.looked_through, _glance, own=True, brief=True),
        Rung("recalibrate", lambda bench: bench.dense, _recalibrate),
        Rung("shared", lambda bench: bench.shared, _recalibrate, own=True),
        Rung("finetune", lambda bench: bench.start, _tune),
        Rung("full", lambda bench: bench.start, _tune_fully, whole=True),
    )
}
"""Name -> rung; another rung is one more row."""


def find_rung(name: str) -> Rung:
    """The rung of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in RUNGS:
        raise ConfigError(f"there is no rung {name!r}; {did_you_mean(name, RUNGS)}")
    return RUNGS[name]
