"""How good a pruned network is, and who computes it: data, tasks, training, evaluations and pools."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "AnalyticWorkload": "evaluators.analytic",
        "DataSettings": "evaluators.settings",
        "Evaluator": "evaluators.protocols",
        "EvaluatorSpec": "evaluators.protocols",
        "NetworkSettings": "evaluators.settings",
        "Pool": "evaluators.protocols",
        "PrunedNetwork": "evaluators.pruning",
        "ProxySettings": "evaluators.settings",
        "RayPool": "evaluators.pools.raypool",
        "RecipeSettings": "evaluators.settings",
        "SerialPool": "evaluators.pools.serial",
        "Splits": "evaluators.data.splits",
        "Subset": "evaluators.data.splits",
        "Task": "evaluators.protocols",
        "TaskSettings": "evaluators.settings",
        "Workload": "evaluators.workload",
        "build_network": "evaluators.networks",
        "dense_weights": "evaluators.dense",
        "load_splits": "evaluators.data.sources",
        "make_task": "evaluators.tasks.factory",
        "prune_with_images": "evaluators.pruning",
    },
)
