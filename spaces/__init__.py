"""What can be pruned in a network, what it costs, and the messages, objectives and fronts of a search.

`trace` and `verify` are imported from their modules (`from spaces.trace import trace`): as attributes of the
package they would be hidden by the modules of the same names.
"""

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
        "front_hypervolume": "spaces.fronts",
        "hypervolume": "spaces.fronts",
        "hypervolume_history": "spaces.fronts",
        "knee": "spaces.fronts",
        "losses": "spaces.objectives",
        "non_dominated": "spaces.fronts",
        "paired_difference": "spaces.intervals",
        "plausible_front": "spaces.intervals",
        "prune": "spaces.surgery",
        "rank_channels": "spaces.ranking",
        "replicate_sd": "spaces.intervals",
    },
)
