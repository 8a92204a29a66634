"""What can be pruned in a network, what it costs, and the messages, objectives and fronts of a search."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "ACTIVATION_BYTES": "spaces.objectives",
        "CRITERIA": "spaces.ranking",
        "ChannelGroup": "spaces.space",
        "ChannelSpace": "spaces.space",
        "ConfigError": "spaces.errors",
        "Costs": "spaces.costs",
        "DataError": "spaces.errors",
        "FLOPS": "spaces.objectives",
        "Frozen": "spaces.space",
        "InputError": "spaces.errors",
        "NetworkError": "spaces.errors",
        "Objective": "spaces.objectives",
        "Outcome": "spaces.messages",
        "PARAMS": "spaces.objectives",
        "ParetoPruneError": "spaces.errors",
        "Ranking": "spaces.ranking",
        "Record": "spaces.messages",
        "RunError": "spaces.errors",
        "StoreError": "spaces.errors",
        "Trial": "spaces.messages",
        "Verification": "spaces.verify",
        "prune": "spaces.surgery",
        "rank_channels": "spaces.ranking",
        "trace": "spaces.trace",
        "verify": "spaces.verify",
    },
)
