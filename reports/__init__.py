"""Tables, figures and pages: records -> pandas frame -> numbers -> Plotly figure -> one HTML page.

`reports` knows records and frames, no campaign, store or network; it opens neither data nor torch.
"""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "CampaignReport": "reports.campaign",
        "channel_graph": "reports.graph",
        "campaign_report": "reports.campaign",
        "compare_figure": "reports.figures",
        "failed_frame": "reports.table",
        "front_figure": "reports.figures",
        "front_table": "reports.table",
        "history_figure": "reports.figures",
        "history_frame": "reports.table",
        "ratios_figure": "reports.figures",
        "trials_frame": "reports.table",
        "write_channel_graph": "reports.graph",
        "write_report": "reports.page",
    },
)
