"""Lazy package attributes (PEP 562), so that importing a package stays light."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """The `__getattr__` and `__all__` of a package whose names are imported on first use.

    Args:
        package: The package's `__name__`.
        homes: Public name -> module that defines it, as module:name where its name there is another.

    Returns:
        What the package assigns to `__getattr__` and `__all__`.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, other = homes[name].partition(":")
        return getattr(importlib.import_module(module), other or name)

    return load, sorted(homes)
