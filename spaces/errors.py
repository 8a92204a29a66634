"""The one tree of errors that callers may catch.

::

    ParetoPruneError            anything this package raises on purpose
    ├── InputError              what the user gave cannot be used: one line, exit status 2
    │   ├── ConfigError         a setting: unknown, of the wrong type, out of range
    │   ├── DataError           images, labels or masks
    │   ├── NetworkError        the network, its weights, or what can be pruned in it
    │   └── StoreError          a store, a campaign or a trial that is not there or cannot be opened
    └── RunError                the work itself went wrong: exit status 1

A failed evaluation is no exception: it is an `Outcome` with status "failed".
"""

import difflib
from collections.abc import Iterable


class ParetoPruneError(Exception):
    """Anything this package raises on purpose."""


class InputError(ParetoPruneError, ValueError):
    """What the user gave cannot be used; the message names the value, the rule and the way out."""


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(InputError):
    """Images, labels or masks cannot be used."""


class NetworkError(InputError):
    """The network, its weights, or what can be pruned in it."""


class StoreError(InputError):
    """A store, a campaign or a trial that is not there or cannot be opened."""


class RunError(ParetoPruneError, RuntimeError):
    """The work itself went wrong."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The tail of an error message about an unknown word: a close match, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
