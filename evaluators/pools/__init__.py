"""Pools: who evaluates trials. In this process (`SerialPool`), or on Ray's actors (`RayPool`)."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "RayPool": "evaluators.pools.raypool",
        "SerialPool": "evaluators.pools.serial",
    },
)
