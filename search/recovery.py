"""Recovery: taking a campaign back to before the trials that the machines lost.

A loss says nothing about the network, but the controller was told of it, and what it asked after that
depends on it. So the search goes back to the first lost trial and asks again from there, as if nothing had
been lost. What was evaluated since stays in the store, and costs nothing where it is asked for again.
"""

from dataclasses import dataclass

from search.store.archive import Store
from spaces.messages import Genome


@dataclass(frozen=True)
class Recovery:
    """What was done about lost trials.

    Attributes:
        back_to: The trial from which the search asks again; None: it goes on where it ended.
        set_aside: Evaluations from there on that are kept for being asked again.
        lost: Lost trials that stay lost.
    """

    back_to: int | None = None
    set_aside: int = 0
    lost: int = 0

    def in_words(self) -> str:
        """What to tell the user; empty when there is nothing to tell."""
        words = []
        if self.back_to is not None:
            words.append(f"evaluating again from trial {self.back_to} on, where evaluations were lost")
            if self.set_aside:
                words.append(f"{self.set_aside} found since are used again where the search asks for them")
        if self.lost:
            words.append(
                f"{self.lost} trials were lost to the machines and count as failed; "
                "`resume --retry-lost` goes back to the first of them"
            )
        return "; ".join(words)


def recover(store: Store, campaign_id: str, dense: Genome, lag: int, *, retry_lost: bool = False) -> Recovery:
    """Go back to the first trial worth evaluating again, if there is one.

    That is the first lost one with `retry_lost`, else the first after which hardly anything (at most `lag`
    trials, which were under way) was evaluated: an outage at the end. Where failures stopped the campaign,
    of the dense network or of every candidate, these are tried again as well: the machine may have been to
    blame for what looked like the network's fault.
    """
    lost = store.numbers(campaign_id, "lost")
    complete = store.numbers(campaign_id, "complete")
    worth = complete[-1 - lag] - lag if len(complete) > lag else -1
    again = [number for number in lost if retry_lost or number >= worth]
    again += _stopping_failures(store, campaign_id, dense)
    if not again:
        return Recovery(lost=len(lost))
    first = min(again)
    return Recovery(first, store.set_aside(campaign_id, first), sum(number < first for number in lost))


def _stopping_failures(store: Store, campaign_id: str, dense: Genome) -> list[int]:
    """The failures for which the campaign was given up; nothing was asked after they were told."""
    if store.campaign(campaign_id).status != "failed":
        return []
    records = store.records(campaign_id, per_case=False)
    all_failed = not any(record.complete for record in records if record.trial.genome != dense)
    return [
        record.trial.number
        for record in records
        if not record.complete and (all_failed or record.trial.genome == dense)
    ]
