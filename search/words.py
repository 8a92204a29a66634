"""Settings as people write them."""

from collections.abc import Mapping
from typing import Any


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Those that say something, as "rung finetune, epochs 2, augment"."""
    said = ((key.replace("_", " "), _said(value)) for key, value in settings.items())
    return ", ".join(f"{key} {value}".strip() for key, value in said if value is not None)


def _said(value: Any) -> str | None:
    if value is None or value == [] or value == {} or value == ():
        return None
    if isinstance(value, Mapping):
        return f"({settings_in_words({key: entry for key, entry in value.items() if entry})})"
    if isinstance(value, bool):
        return "" if value else "off"
    if isinstance(value, list | tuple):
        return " then ".join(str(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
