"""ParetoPrune's public API in one name: `import paretoprune as pp`. Everything loads on first use."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "CampaignConfig": "search.config",
        "ChannelGroup": "spaces.space",
        "ChannelSpace": "spaces.space",
        "Genome": "spaces.messages",
        "InputError": "spaces.errors",
        "NetworkDescription": "evaluators.deploy.description",
        "Objective": "spaces.objectives",
        "Outcome": "spaces.messages",
        "ParetoPruneError": "spaces.errors",
        "PrunedNetwork": "evaluators.pruning",
        "Record": "spaces.messages",
        "RunError": "spaces.errors",
        "Store": "search.store",
        "Trial": "spaces.messages",
        "TiedSpace": "spaces.granularity",
        "campaign_summary": "search.summary",
        "embed": "evaluators.deploy.embedding",
        "export": "evaluators.deploy.exporting:export_network",
        "launch": "search.launch",
        "load": "evaluators.deploy.saving:load_network",
        "load_config": "search.config",
        "prune": "spaces.surgery",
        "prune_with_images": "evaluators.pruning",
        "rank_channels": "spaces.ranking",
        "read_description": "evaluators.deploy.saving",
        "resume": "search.launch",
        "save": "evaluators.deploy.saving:save_network",
        "trace": "spaces.tracing",
        "verify": "spaces.verification",
        "write_report": "reports.page",
    },
)
