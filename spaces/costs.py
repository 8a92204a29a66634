"""What a pruned network costs, as polynomials in the kept counts.

The size of every dimension of every tensor is a linear form in the genome, `constant + sum(multiple * kept)`;
a matrix product, a parameter or an activation is a product of such sizes. Compiled to arrays, thousands of
genomes are priced at once, and exactly: all numbers are integers far below 2**53.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from spaces.latency import LatencyModel

_ROWS = 1024  # genomes a block: the intermediate arrays stay in the cache


@dataclass(frozen=True, slots=True)
class Form:
    """The size of a dimension: `constant` plus `multiple * kept` for every (group, multiple)."""

    constant: int = 0
    multiples: tuple[tuple[int, int], ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether no gene changes it."""
        return not self.multiples

    def row(self, n_groups: int) -> np.ndarray:
        """Coefficients (1 + n_groups,): the constant first."""
        row = np.zeros(1 + n_groups)
        row[0] = self.constant
        for group, multiple in self.multiples:
            row[1 + group] += multiple
        return row


@dataclass(frozen=True, slots=True)
class Term:
    """A product of sizes: `coefficient * form * form * ...`, constants folded into the coefficient."""

    coefficient: int
    factors: tuple[Form, ...] = ()

    @classmethod
    def product(cls, coefficient: int, sizes: Iterable[Form | int]) -> "Term":
        """The canonical term: equal products are equal terms."""
        factors = []
        for size in sizes:
            if isinstance(size, int):
                coefficient *= size
            elif size.is_constant:
                coefficient *= size.constant
            else:
                factors.append(size)
        return cls(coefficient, tuple(sorted(factors, key=lambda form: (form.constant, form.multiples))))


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A sum of terms, compiled: degree two and less as one quadratic form, the rest term by term."""

    quadratic: np.ndarray  # (1 + n_groups, 1 + n_groups)
    higher: tuple[tuple[float, np.ndarray], ...]  # (coefficient, rows of forms (degree, 1 + n_groups))

    @classmethod
    def compile(cls, terms: Iterable[Term], n_groups: int) -> "Polynomial":
        """Add the terms up; equal factors are multiplied out once."""
        one = Form(1).row(n_groups)
        quadratic = np.zeros((1 + n_groups, 1 + n_groups))
        higher = []
        for factors, coefficient in _collect(terms).items():
            rows = [form.row(n_groups) for form in factors]
            if len(rows) <= 2:
                left, right = [*rows, one, one][:2]
                quadratic += coefficient * np.outer(left, right)
            else:
                higher.append((float(coefficient), np.stack(rows)))
        return cls(quadratic, tuple(higher))

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Values at the kept counts: (n, n_groups) -> (n,)."""
        values = np.empty(len(counts))
        for block, x in _blocks(counts):
            values[block] = np.einsum("ij,ij->i", x @ self.quadratic, x)
            for coefficient, rows in self.higher:
                values[block] += coefficient * np.prod(x @ rows.T, axis=1)
        return values


@dataclass(frozen=True, eq=False)
class Peak:
    """The largest of several sums of terms: `max(step @ products)` over the steps that can be largest."""

    forms: np.ndarray  # (n_forms, 1 + n_groups)
    products: np.ndarray  # (n_products, degree) rows of `forms`; form 0 is the constant one
    steps: np.ndarray  # (n_steps, n_products)

    @classmethod
    def compile(cls, steps: Sequence[Iterable[Term]], n_groups: int) -> "Peak":
        """Keep the steps that no other step exceeds in every coefficient."""
        collected = [_collect(step) for step in steps] or [{}]
        products = list(dict.fromkeys(factors for step in collected for factors in step)) or [()]
        number = {factors: i for i, factors in enumerate(products)}
        weights = np.zeros((len(collected), len(products)))
        for row, step in zip(weights, collected, strict=True):
            for factors, coefficient in step.items():
                row[number[factors]] = coefficient
        forms = list(dict.fromkeys([Form(1), *(form for factors in products for form in factors)]))
        place = {form: i for i, form in enumerate(forms)}
        degree = max(1, *(len(factors) for factors in products))
        padded = [[place[form] for form in factors] + [0] * (degree - len(factors)) for factors in products]
        rows = np.stack([form.row(n_groups) for form in forms])
        return cls(rows, np.array(padded), _undominated(weights))

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Values at the kept counts: (n, n_groups) -> (n,)."""
        values = np.empty(len(counts))
        for block, x in _blocks(counts):
            sizes = self._sparse_forms @ np.ascontiguousarray(x.T)
            products = sizes[self.products[:, 0]]
            for column in self.products.T[1:]:
                products *= sizes[column]
            values[block] = (self._sparse_steps @ products).max(axis=0)
        return values

    @cached_property
    def _sparse_forms(self) -> csr_array:
        return csr_array(self.forms)

    @cached_property
    def _sparse_steps(self) -> csr_array:
        """Hardly a handful of tensors is alive in a step."""
        return csr_array(self.steps)


@dataclass(frozen=True, eq=False)
class CostModel:
    """Prices genomes: FLOPs, parameters and peak activation bytes of one image (or patch).

    Attributes:
        flops: Exact.
        params: Exact.
        activation_bytes: Exact.
        latency: Predicted milliseconds on one target; None: not known.
    """

    flops: Polynomial
    params: Polynomial
    activation_bytes: Peak
    latency: "LatencyModel | None" = None

    @classmethod
    def compile(
        cls,
        n_groups: int,
        flops: Iterable[Term],
        params: Iterable[Term],
        activation_steps: Sequence[Iterable[Term]],
    ) -> "CostModel":
        """From terms; `activation_steps` holds what is alive at each step of the forward pass, in bytes."""
        return cls(
            Polynomial.compile(flops, n_groups),
            Polynomial.compile(params, n_groups),
            Peak.compile(activation_steps, n_groups),
        )


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs of n genomes; every figure is computed when first asked for.

    Attributes:
        model: What prices them.
        counts: Kept units (n, n_groups).
    """

    model: CostModel = field(repr=False)
    counts: np.ndarray

    @cached_property
    def flops(self) -> np.ndarray:
        """FLOPs per image as FlopCounterMode counts them, (n,)."""
        return self.model.flops(self.counts)

    @cached_property
    def params(self) -> np.ndarray:
        """Number of parameters, shared ones once, (n,)."""
        return self.model.params(self.counts)

    @cached_property
    def activation_bytes(self) -> np.ndarray:
        """Peak bytes of inputs and activations that are alive together in inference, per image, (n,)."""
        return self.model.activation_bytes(self.counts)

    @cached_property
    def latency_ms(self) -> np.ndarray:
        """Predicted milliseconds a call, (n,); NaN where the space has no model of latency."""
        latency = self.model.latency
        return np.full(len(self), np.nan) if latency is None else latency(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def row(self, i: int) -> dict[str, float]:
        """The costs of genome i, as a `Record` holds them: latency only where there is a model of it."""
        names = ["flops", "params", "activation_bytes"]
        if self.model.latency is not None:
            names.append("latency_ms")
        return {name: float(getattr(self, name)[i]) for name in names}


def _collect(terms: Iterable[Term]) -> Mapping[tuple[Form, ...], int]:
    totals: dict[tuple[Form, ...], int] = {}
    for term in terms:
        totals[term.factors] = totals.get(term.factors, 0) + term.coefficient
    return totals


def _undominated(weights: np.ndarray) -> np.ndarray:
    """The rows that no other row equals or exceeds everywhere; sizes are never negative, so it is safe."""
    weights = np.unique(weights, axis=0)
    weights = weights[np.argsort(-weights.sum(axis=1), kind="stable")]
    kept = weights[:1]
    for row in weights[1:]:
        if not (kept >= row).all(axis=1).any():
            kept = np.vstack([kept, row])
    return kept


def _blocks(counts: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(counts), _ROWS):
        block = slice(start, start + _ROWS)
        part = counts[block]
        yield block, np.column_stack([np.ones(len(part)), part])
