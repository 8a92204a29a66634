"""Tables, figures and pages: records -> pandas frame -> numbers -> Plotly figure -> one HTML page.

`reports` knows records and frames, no campaign, store or network; it opens neither data nor torch.
"""

from spaces.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "CampaignReport": "reports.campaign",
        "calibration_figure": "reports.detail_figures",
        "calibration_frame": "reports.details",
        "campaign_figures": "reports.payload",
        "campaign_report": "reports.campaign",
        "channel_graph": "reports.graph",
        "class_frame": "reports.details",
        "classes_figure": "reports.class_figures",
        "compare_figure": "reports.figures",
        "failed_frame": "reports.table",
        "final_class_frame": "reports.details",
        "finalised_frame": "reports.details",
        "front_figure": "reports.figures",
        "front_table": "reports.table",
        "history_figure": "reports.figures",
        "history_frame": "reports.table",
        "latency_figure": "reports.detail_figures",
        "latency_frame": "reports.details",
        "prior_figure": "reports.detail_figures",
        "ratios_figure": "reports.figures",
        "replicates_figure": "reports.detail_figures",
        "replicates_frame": "reports.details",
        "spread_figure": "reports.class_figures",
        "trials_frame": "reports.table",
        "weights_figure": "reports.detail_figures",
        "write_channel_graph": "reports.graph",
        "write_pictures": "reports.pictures",
        "write_report": "reports.page",
    },
)
