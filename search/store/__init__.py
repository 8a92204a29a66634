"""The archive: campaigns, their trials and the openings of the test split, in one database."""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "DEFAULT_URL": "search.store.engine",
        "CampaignEntry": "search.store.entries",
        "CampaignRow": "search.store.entries",
        "Opening": "search.store.entries",
        "Status": "search.store.entries",
        "Store": "search.store.archive",
        "artifact_dir": "search.store.engine",
        "check_store": "search.store.engine",
    },
)
