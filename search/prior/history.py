"""Experts versus outcome of a stored campaign, as pandas frames for reports. Recomputed from its records."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from search.controllers.structured.mixture import Mixture, make_experts
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.terms import Terms
from search.prior.advice import stored_advice
from search.prior.corpus import METRIC, PastCampaign, past_campaign
from search.scouting import STAGE, with_scouts
from search.store.archive import Store

if TYPE_CHECKING:
    import pandas as pd

_LEAST = 3
_SHARE = 0.25
_LEAST_DAMAGE = 0.05  # below it what an expert foresees says nothing of how steep a campaign is


def expert_weights(store: Store, campaign_id: str, every: int = 5) -> "pd.DataFrame":
    """What each expert counted as measurements came in: columns "networks", "expert", "weight".

    One row per expert and so many measured networks, dense apart; the last rows are of all of them. Empty
    where the campaign had neither prior nor scouts, or has measured too little.
    """
    import pandas as pd

    past = _past(store, campaign_id)
    rows = []
    if past is not None:
        n = len(past[0].evidence.genomes)
        for k in sorted({*range(_LEAST, n, every), n}):
            rows += [
                {"networks": k, "expert": name, "weight": weight}
                for name, weight in _weights(*past, k).items()
            ]
    return pd.DataFrame(rows, columns=["networks", "expert", "weight"])


def group_damage(store: Store, campaign_id: str) -> "pd.DataFrame":
    """Damage of keeping a quarter of one group alone, as experts foresaw it and as it turned out.

    Columns "group"; one per expert, scaled to how steep this campaign was as a whole; "observed" and "sd",
    the posterior of a damage model that knew nothing before. Empty as `expert_weights`.
    """
    import pandas as pd

    found = _past(store, campaign_id)
    if found is None:
        return pd.DataFrame(columns=["group", "observed", "sd"])
    past, experts = found
    terms = Terms(past.space)
    model = DamageModel(terms, past.evidence, Setting())
    dense = np.array(past.space.dense, dtype=float)
    alone = np.tile(dense, (len(dense), 1))
    alone[np.diag_indices(len(dense))] *= _SHARE
    everywhere = (dense * _SHARE)[None]
    whole = float(model.predict(terms.features(everywhere))[0][0])
    frame = pd.DataFrame({"group": [group.name for group in past.space.groups]})
    for expert in experts:
        (expected,), own = (expert.features(rows).common.sum(axis=1) for rows in (everywhere, alone))
        frame[expert.belief.name] = own * (whole / expected if expected > _LEAST_DAMAGE else 1.0)
    frame["observed"], frame["sd"] = model.predict(terms.features(alone))
    return frame


def _past(store: Store, campaign_id: str) -> tuple[PastCampaign, list[Terms]] | None:
    """The campaign, and the experts that its controller had."""
    row = store.campaign(campaign_id)
    advice, seen = stored_advice(row.description), store.records(campaign_id, stage=STAGE)
    if advice.about is None and not seen:
        return None
    value = row.config["search"].get("value", METRIC)  # the experts were judged by what the search saw
    past = past_campaign(store, row, value, cheapest=True)
    if not isinstance(past, PastCampaign):
        return None
    advice = with_scouts(advice, past.space, past.groups, seen)
    experts = make_experts(past.space, advice.beliefs, advice.scouts)
    return (past, experts) if len(experts) > 1 else None


def _weights(past: PastCampaign, experts: Sequence[Terms], n: int) -> dict[str, float]:
    """By expert, after the first n networks."""
    mixture = Mixture(experts, past.evidence.rows(np.arange(n)), [Setting()] * len(experts))
    return {
        belief.name: float(weight) for belief, weight in zip(mixture.beliefs, mixture.weights, strict=True)
    }
