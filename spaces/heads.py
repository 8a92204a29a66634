"""Attributes in which attention modules state how many heads they have, and how wide these are.

Forward code such as `x.view(b, n, self.num_heads, self.head_dim)` follows a pruned network only where these
attributes do. They are known by their names; whether code really goes by them, verification finds out.
"""

from collections.abc import Iterator, Mapping

from torch import nn

NUMBERS = ("num_heads", "n_heads", "heads", "n_head", "nhead", "num_attention_heads")
WIDTHS = ("head_dim", "dim_head", "head_size", "attention_head_size", "d_head", "head_width")
TOTALS = ("inner_dim", "all_head_size", "inner_size")
_LAYER = "axes_lengths."  # of an einops layer, which keeps its numbers in a dictionary of this name


def number_of_heads(modules: Mapping[str, nn.Module], path: str) -> int | None:
    """What the module at the path, or the one around it, states."""
    for owner in _owners(path):
        for name in NUMBERS:
            value = getattr(modules[owner], name, None)
            if type(value) is int:
                return value
    return None


def stated_at(modules: Mapping[str, nn.Module], path: str, length: int, *, width: bool) -> Iterator[str]:
    """Keys of the attributes that state this length, at the path and around it.

    Args:
        modules: The network's, by path.
        path: Of the module that splits its channels into heads.
        length: Number or width of the heads.
        width: Which of the two it is.
    """
    for owner in _owners(path):
        module = modules[owner]
        if isinstance(module, nn.MultiheadAttention):
            continue  # its numbers follow from its embedding
        found = [name for name in (WIDTHS if width else NUMBERS) if getattr(module, name, None) == length]
        lengths = {} if width else getattr(module, "axes_lengths", {})
        found += [_LAYER + name for name, value in lengths.items() if value == length][-1:]
        yield from (f"{owner}#{name}" for name in found)


def follow(modules: Mapping[str, nn.Module], stated: Mapping[str, int]) -> None:
    """Write the lengths that are left into a pruned network's attributes.

    Args:
        modules: Of the pruned network, by path; changed in place.
        stated: Lengths by key, as `stated_at` gives them; other keys are left alone.
    """
    for key, length in stated.items():
        owner, mark, name = key.partition("#")
        if not mark:
            continue
        module = modules[owner]
        if name.startswith(_LAYER):
            relabel(module, name.removeprefix(_LAYER), length)
            continue
        before = getattr(module, name)
        setattr(module, name, length)
        for total in TOTALS:
            value = getattr(module, total, None)
            if type(value) is int and value % before == 0:
                setattr(module, total, value // before * length)


def relabel(layer: nn.Module, axis: str, length: int) -> None:
    """Tell an einops layer of another length of an axis, in place."""
    state, training = layer.__getstate__(), layer.training
    state["axes_lengths"] = state["axes_lengths"] | {axis: length}
    layer.__setstate__(state)  # einops works its recipe out anew
    layer.training = training


def _owners(path: str) -> tuple[str, ...]:
    return (path, path.rpartition(".")[0]) if path else (path,)
