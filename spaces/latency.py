"""Predicted latency: what a network takes on one target, from the widths of its layers. NumPy only.

A layer that makes `out` channels of `into` is described by three numbers: whether it is there, its
multiply-accumulates, and the elements that it moves. The latency of a network is the sum of these over its
layers, times what each costs on the target. The prices are never negative, so that no network gets slower by
losing channels; they are fitted to measured networks by `evaluators.latency.fitting`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spaces.errors import InputError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with a matrix of weights; widths are linear forms: the constant, then a multiple per group.

    Attributes:
        name: Path of the module.
        out: Channels that it makes.
        fan: Channels that each of these is made of.
        into: Channels that it reads.
        work_places: Places per channel at which it multiplies.
        made_places: Places per channel that it makes: pixels, tokens.
        read_places: Places per channel that it reads.
        taps: Weights per pair of channels.
    """

    name: str
    out: tuple[float, ...]
    fan: tuple[float, ...]
    into: tuple[float, ...]
    work_places: float
    made_places: float
    read_places: float
    taps: float


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Prices genomes in milliseconds.

    Attributes:
        layers: Of the network.
        multiple: Channels that the target computes together: work is counted as if widths were rounded up.
        prices: Milliseconds per unit of each feature, see `features`; (n_features,), none negative.
        setting: What was measured: runtime, batch, device, threads, machine, shape.
        errors: Of networks predicted without having been fitted, |predicted / measured - 1|: "median", "p90";
            "flops_median": of FLOPs alone; "networks": how many.
        space: Fingerprint of the space whose genomes it prices.
    """

    layers: tuple[Layer, ...]
    multiple: int
    prices: np.ndarray
    setting: Mapping[str, Any]
    errors: Mapping[str, float]
    space: str

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Predicted milliseconds a call at the kept counts of every group: (n, n_groups) -> (n,)."""
        return features(self.layers, self.multiple, counts) @ self.prices

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "version": VERSION,
            "space": self.space,
            "setting": dict(self.setting),
            "errors": dict(self.errors),
            "multiple": self.multiple,
            "prices": self.prices.tolist(),
            "layers": [asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, found: Any, space: str, name: str = "the latency table") -> "LatencyModel":
        """From plain data.

        Args:
            found: What `as_json` gave.
            space: Fingerprint of the space that it must be of.
            name: What the errors call it.

        Raises:
            InputError: It is damaged, of another version, or of another network.
        """
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise InputError(f"{name} is no latency table of version {VERSION}; fit it again")
        if found.get("space") != space:
            raise InputError(f"{name} is of another network or of other pruning settings; fit it again")
        try:
            layers = tuple(Layer(**{key: _frozen(v) for key, v in row.items()}) for row in found["layers"])
            prices = np.array(found["prices"], dtype=float)
            model = cls(layers, int(found["multiple"]), prices, found["setting"], found["errors"], space)
            if not (np.isfinite(prices).all() and (prices >= 0).all()):
                raise ValueError("prices must be finite and not negative")
            model(np.zeros((1, len(layers[0].out) - 1)))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{name} is damaged ({error}); fit it again") from None
        return model


def features(layers: tuple[Layer, ...], multiple: int, counts: np.ndarray) -> np.ndarray:
    """What latencies are sums of: (n, n_groups) -> (n, 4 + 2 * n_kinds + 2 * n_layers).

    One; layers that are there, their work and their movement in all; work and movement of the layers of each
    kind (of equally many places, with or without neighbours, depthwise or not); the same of each layer.
    """
    x = np.column_stack([np.ones(len(counts)), counts])
    out, fan, into = (
        x @ np.array([getattr(layer, name) for layer in layers]).T for name in ("out", "fan", "into")
    )
    there = (out > 0) & (into > 0)
    work, made, read, taps = (
        np.array([getattr(layer, name) for layer in layers])
        for name in ("work_places", "made_places", "read_places", "taps")
    )
    works = np.where(there, _rounded(out, multiple) * _rounded(fan, multiple) * work * taps, 0.0)
    moves = np.where(there, out * made + into * read + out * fan * taps, 0.0)
    kinds: dict[tuple[float, bool, bool], list[int]] = {}
    for i, layer in enumerate(layers):
        kinds.setdefault((layer.work_places, layer.taps > 1, any(layer.fan[1:])), []).append(i)
    totals = [np.ones(len(x)), there.sum(axis=1), works.sum(axis=1), moves.sum(axis=1)]
    by_kind = [part[:, members].sum(axis=1) for part in (works, moves) for members in kinds.values()]
    return np.column_stack([*totals, *by_kind, works, moves])


def _rounded(widths: np.ndarray, multiple: int) -> np.ndarray:
    return np.ceil(widths / multiple - 1e-9) * multiple


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
