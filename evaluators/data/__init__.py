"""Images: one `Splits` from whatever source (`load_splits`)."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "Splits": "evaluators.data.splits",
        "Subset": "evaluators.data.splits",
        "load_splits": "evaluators.data.sources",
        "source_names": "evaluators.data.sources",
    },
)
