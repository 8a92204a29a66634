"""Things of the user's that settings name as `module:callable`."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from spaces.errors import InputError, did_you_mean


def find_callable(given: str, setting: str, error: type[InputError]) -> Callable[..., Any]:
    """The callable of that name; the current directory is importable.

    Args:
        given: module:callable.
        setting: Which setting names it, for messages.
        error: What is raised where it cannot be had.
    """
    where = f"{setting} = {given!r}"
    module_name, _, attribute = given.partition(":")
    if not module_name or not attribute:
        raise error(f"{where}: write it as module:callable, for example monai.networks.nets:resnet18")
    # Last and for good: a user's file must not hide an installed module, and workers inherit the list.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as problem:
        if isinstance(problem, ModuleNotFoundError) and f"{module_name}.".startswith(f"{problem.name}."):
            way_out = "run where its file is, or install it"
            raise error(f"{where}: there is no module {problem.name!r}; {way_out}") from None
        raise error(f"{where}: importing {module_name!r} failed: {short(problem)}") from problem
    if not hasattr(module, attribute):
        public = [
            name for name in vars(module) if not name.startswith("_") and callable(getattr(module, name))
        ]
        raise error(f"{where}: {module_name} has no {attribute!r}; {did_you_mean(attribute, public)}")
    found = getattr(module, attribute)
    if not callable(found):
        raise error(f"{where}: this is {type(found).__name__}, and cannot be called")
    return found


def short(error: BaseException) -> str:
    """An error in one line of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
