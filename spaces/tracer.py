"""Runs a network and carries channel ids from operator to operator."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from spaces.channels import ChannelGraph, Dims, Ids
from spaces.clone import named_tensors
from spaces.errors import RunError
from spaces.flow import Flow
from spaces.heads import number_of_heads, stated_at
from spaces.inputs import Call
from spaces.ledger import Ledger, Size, sizes
from spaces.metas import shape_of
from spaces.rules import rule_for
from spaces.standins import takes_nothing
from spaces.step import Rule, Site, Step, bind


class Tracer(TorchDispatchMode):
    """The dispatch mode under which the network runs; one for all passes over the same tensors.

    Attributes:
        graph: Where rules write ties and freezes.
        axes: The fresh ids of each parameter and buffer, by (name, dimension).
        touched: Names of the parameters and buffers that some operator read.
        produced: Ids in the order in which operators produced them.
        stated: Ids whose number a module states, by its path.
        summed: Ids over which `torch.einsum` sums.
        model: The network.
        ledger: Where costs are written, in the pass that counts them.
        flow: Where is written what each operator reads and writes, if someone wants to know.
        decisions: Which interpretation of an ambiguous reshape to take, counted from the likeliest.
        heads: Whether attention is to lose whole heads, and not a part of each.
        sites: The ambiguous reshapes met, with the ids that they split and the number of interpretations.
        tied_to: Those of them that may have been read off the module's input, with its ids.
        path: The module that runs.
        entered: Ids along the last dimension of the first tensor that it was given.
    """

    def __init__(self, model: nn.Module, decisions: Mapping[Site, int] | None = None) -> None:
        super().__init__()
        self.graph = ChannelGraph()
        self.axes: dict[tuple[str, int], Ids] = {}
        self.touched: set[str] = set()
        self.produced: list[Ids] = []
        self.stated: dict[str, Ids] = {}
        self.summed: list[Ids] = []
        self.in_einsum = False
        self.ledger: Ledger | None = None
        self.flow: Flow | None = None
        self.decisions = dict(decisions or {})
        self.heads = False
        self.sites: dict[Site, tuple[Ids, int]] = {}
        self.tied_to: dict[Site, Ids] = {}
        self.path = ""
        self.entered: Ids | None = None
        self._reshapes: dict[str, int] = {}
        self._orders: dict[Site, list[int]] = {}
        self._dims = WeakTensorKeyDictionary()
        self.model = model
        self._modules = dict(model.named_modules())
        self._names: dict[int, str] = {}
        for name, tensor in named_tensors(model):
            self._names[id(tensor)] = name
            if tensor.is_floating_point() or tensor.is_complex():  # others are indices and masks
                self._dims[tensor] = tuple(self._fresh(name, dim, n) for dim, n in enumerate(tensor.shape))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would load its compiler at the first operator, which takes longer than the trace."""
        return False

    def _fresh(self, name: str, dim: int, length: int) -> Ids | None:
        if length <= 1:
            return None  # nothing to choose from, and broadcasting needs no care
        return self.axes.setdefault((name, dim), self.graph.fresh(length))

    def run(self, call: Call, ledger: Ledger | None = None) -> list[Tensor]:
        """One forward pass; the tensors in its result."""
        self.ledger = ledger
        self._reshapes.clear()
        if ledger is not None:
            ledger.own(tensor for _, tensor in named_tensors(self.model))
        if self.flow is not None:
            self.flow.begin(call.tensors)
        with torch.no_grad(), attention_unfused(), self._watched(), _Functions(self), self:
            result = call(self.model)
        tensors = list(find_tensors(result))
        if self.flow is not None:
            self.flow.end((tensor, self.dims(tensor)) for tensor in tensors)
        return tensors

    def dims(self, tensor: Tensor) -> Dims:
        """The ids along each of the tensor's dimensions."""
        return self._dims.get(tensor) or (None,) * tensor.ndim

    def parameter_sizes(self) -> Iterator[list[Size]]:
        """The shape of every parameter, shared ones once."""
        for _, tensor in named_tensors(self.model):
            if isinstance(tensor, nn.Parameter):
                yield sizes(tensor, self.dims(tensor))

    def unused(self) -> list[str]:
        """Parameters that no operator read."""
        return [name for name, _ in self.model.named_parameters() if name not in self.touched]

    def next_site(self) -> Site:
        """The identity of the reshape that runs now."""
        number = self._reshapes.get(self.path, 0)
        self._reshapes[self.path] = number + 1
        return self.path, number

    def order_at(self, site: Site, likely: list[int]) -> list[int]:
        """The dimensions by likelihood, as when the reshape was first met.

        In other passes the batch may be longer and change places with the heads, say.
        """
        order = self._orders.setdefault(site, likely)
        return order if len(order) == len(likely) else likely

    def wanted_heads(self) -> int | None:
        """How many heads the module that runs has, if it is to lose whole ones."""
        return number_of_heads(self._modules, self.path) if self.heads else None

    def split_into_heads(self, ids: Ids, *, width: bool) -> None:
        """A module may state this number in an attribute: all that it states in the same one is as long."""
        for key in stated_at(self._modules, self.path, len(ids), width=width):
            same = self.stated.setdefault(key, ids)
            self.graph.tie(same, ids, f"is as long as other channels by {key}")

    def looks(self, ids: Ids) -> Ids:
        """The ids as a reshape compares them; a subclass that knows the groups says which are alike."""
        return ids

    def execute(self, step: Step) -> Any:
        """Run the operator itself."""
        known = shape_of(step.func, step.values)
        return step.func(*step.values["*"], **step.values["**"]) if known is None else known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and its rule."""
        kwargs = kwargs or {}
        rule = rule_for(func)
        if rule is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        inputs = list(_tensors((*args, *kwargs.values())))
        self.touched.update(self._names[id(tensor)] for tensor in inputs if id(tensor) in self._names)
        values = bind(func, args, kwargs)
        result = self.execute(Step(self, func, values, inputs, ()))
        outputs = list(_tensors((result,)))
        self._follow(Step(self, func, values, inputs, outputs), rule)
        return result

    def _follow(self, step: Step, rule: Rule | None) -> None:
        read = [(tensor, self.dims(tensor)) for tensor in step.inputs] if self.flow is not None else []
        found: Sequence[Dims] = ()
        if step.inputs and rule is not None:
            try:
                found = rule(step)
            except Exception as error:
                raise RunError(f"the rule of operator {step.func} fails: {error}") from error
        else:
            for tensor in step.inputs:
                for ids in self.dims(tensor):
                    step.freeze(ids, "reaches an operator without a rule")
        for tensor, dims in zip(step.outputs, found, strict=False):
            if len(dims) != tensor.ndim:
                raise RunError(
                    f"the rule of operator {step.func} gave {len(dims)} of {tensor.ndim} dimensions"
                )
            self._dims[tensor] = dims
        if self.ledger is not None:
            self.ledger.step(step.inputs, [(tensor, self.dims(tensor)) for tensor in step.outputs])
        if self.flow is not None:
            written = [(tensor, self.dims(tensor)) for tensor in step.outputs]
            self.flow.step(read, written, takes_nothing(step.func, self._modules.get(self.path)))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Keep `path` and `entered` on the module that runs."""
        paths = {id(module): path for path, module in reversed(list(self.model.named_modules()))}
        stack: list[tuple[str, Ids | None]] = []

        def enter(module: nn.Module, args: Any) -> None:
            stack.append((self.path, self.entered))
            self.path = paths.get(id(module), self.path)
            first = next(_tensors(args), None)
            self.entered = self.dims(first)[-1] if first is not None and first.ndim else None

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            self.path, self.entered = stack.pop()

        with ExitStack() as hooks:
            hooks.callback(register_module_forward_pre_hook(enter).remove)
            hooks.callback(register_module_forward_hook(leave).remove)
            try:
                yield
            finally:
                self.path, self.entered = "", None


class _Functions(TorchFunctionMode):
    """What is known of functions but not of the operators that they call.

    Dropout of whole channels is the identity: its noise is an ordinary tensor whose length only looks like a
    coincidence. What is multiplied within `torch.einsum` is marked.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _FEATURE_DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        outer, self.tracer.in_einsum = self.tracer.in_einsum, name == "einsum"
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.tracer.in_einsum = outer


_FEATURE_DROPOUTS = {
    name + tail for name in ("feature_dropout", "feature_alpha_dropout") for tail in ("", "_")
}


def _tensors(values: Sequence[object]) -> Iterator[Tensor]:
    """Tensors among an operator's arguments or results, and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@contextmanager
def attention_unfused() -> Iterator[None]:
    """Keep nn.MultiheadAttention from its fused inference kernel, which hides what happens inside."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def find_tensors(value: object) -> Iterator[Tensor]:
    """All tensors in a result: in containers, and in the attributes of plain objects."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, type | nn.Module):
            yield from find_tensors(list(vars(leaf).values()))
