"""Tasks: what a network is for. They know its loss and its measures, and nothing of how it is trained."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "Classification": "evaluators.tasks.classification",
        "Custom": "evaluators.tasks.custom",
        "Embedding": "evaluators.tasks.embedding",
        "MultiLabel": "evaluators.tasks.multilabel",
        "Regression": "evaluators.tasks.regression",
        "Segmentation": "evaluators.tasks.segmentation",
        "main_output": "evaluators.tasks.heads",
        "make_task": "evaluators.tasks.factory",
    },
)
