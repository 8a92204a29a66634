"""What a calibration found."""

from typing import TYPE_CHECKING

from search.display.printing import new_table, show

if TYPE_CHECKING:
    from search.calibration import Calibration
    from spaces.agreement import Agreement


def print_calibration(found: "Calibration") -> None:
    """Every rung with every ranking value: agreement with full, time, regret; and what to take."""
    columns = ("rung", "ranked by", "tau, 95 % interval", "within an octave", "s a trial", "hypervolume lost")
    table = new_table(columns, left=2)
    for c in found.rungs:
        numbers = (_tau(c.overall), _tau(c.within), f"{c.seconds:.2g}", f"{c.regret:.3f}")
        table.add_row(c.rung, c.value, *numbers)
    repeat = (_tau(found.ceiling), _tau(found.ceiling_within), f"{found.full_seconds:.2g}", "")
    table.add_row("full", "its repeat", *repeat)
    show(table)
    print(
        "\ntau: Kendall's rank correlation with full (1: the same order, 0: chance), on "
        f"{found.networks} networks; below {found.power:.2f} it may go unseen (power 80 %)\n"
        "within an octave: among networks of like FLOPs; no rung is expected above the repeat of full\n"
        f"take: proxy.rung = {found.rung!r}, ranked by the {found.value}"
    )
    if found.at_chance:
        print("no rung ranks better than chance: every upper bound says so")


def _tau(agreement: "Agreement") -> str:
    return f"{agreement.tau:.2f} ({agreement.low:.2f} to {agreement.high:.2f})"
