"""What to try next, what was tried, the campaign around both, and the command line."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "Campaign": "search.campaign",
        "CampaignConfig": "search.config",
        "Store": "search.store",
        "load_config": "search.config",
        "make_controller": "search.controllers",
        "controller_names": "search.controllers",
    },
)
