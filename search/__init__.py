"""What to try next, what was tried, the campaign around both, and the command line."""

try:
    from spaces.lazy import lazy
except ModuleNotFoundError as error:
    raise ImportError(
        "another package named 'spaces' (Hugging Face's?) hides ParetoPrune's; "
        "install ParetoPrune in an environment of its own"
    ) from error

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
