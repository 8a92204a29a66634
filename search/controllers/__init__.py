"""Controllers: who proposes the next networks. Each asks and is told, and does nothing else."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "Controller": "search.controllers.base",
        "check_controller": "search.controllers.registry",
        "controller_names": "search.controllers.registry",
        "make_controller": "search.controllers.registry",
    },
)
