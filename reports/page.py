"""One self-contained HTML page about one campaign or several: no network, no patients, no absolute paths.

The page carries plotly.js, its own style and script, and the numbers as JSON. A content security policy with
the hashes of the scripts forbids everything else, so that nothing in a name or an error message can run.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reports.campaign import TOLERANCE, CampaignReport
from reports.drawing import plotly_js
from reports.payload import as_plain, campaign_payload, compare_figures
from reports.theme import DARK
from spaces.errors import InputError
from spaces.objectives import in_words
from spaces.scrubbing import without_files, without_paths

_SCRIPTS = ("plots.js", "networks.js", "chosen.js", "report.js")
_UNSAFE_IN_SCRIPT = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def write_report(reports: CampaignReport | Sequence[CampaignReport], path: str | Path) -> Path:
    """Write the page about one campaign, or comparing several, to a file; whole or not at all.

    Args:
        reports: What to tell.
        path: The file; its folder is made where it is missing.

    Returns:
        The path.

    Raises:
        InputError: The file cannot be written, or there is no campaign.
    """
    return write_page(render([reports] if isinstance(reports, CampaignReport) else list(reports)), path)


def write_page(page: str, path: str | Path) -> Path:
    """Write a page to a file, whole or not at all; its folder is made where it is missing.

    Raises:
        InputError: The file cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(page, encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise InputError(
            f"cannot write the report to {path}: {error.strerror}; choose another --out"
        ) from error
    return path


def render(reports: Sequence[CampaignReport]) -> str:
    """The page as a string."""
    if not reports:
        raise InputError("a report needs at least one campaign")
    reports = [_cleaned(report) for report in reports]
    own = "\n".join(["(() => {", *(template_text(name) for name in _SCRIPTS), "})();"])
    scripts = {
        "theme_js": _script(template_text("theme.js")),
        "plotly_js": _script(plotly_js()),
        "report_js": _script(own),
    }
    compared = compare_figures(list(reports)) if len(reports) > 1 else {}
    payload: dict[str, Any] = {
        "dark": DARK,
        "campaigns": [campaign_payload(report) for report in reports],
        "compare": [as_plain(figure) for figure in compared.values()],
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        reports=reports,
        compared=list(compared),
        percent=percent,
        signed=signed,
        figure=figure,
        in_words=in_words,
        figures=[campaign["figures"] for campaign in payload["campaigns"]],
        answers=[answer(report) for report in reports],
        policy=script_policy(scripts.values()),
        css=Markup(template_text("report.css")),  # our own file
        data=Markup(_json(payload)),  # escaped for a script element
        margin=TOLERANCE,
        **scripts,
    )


def answer(report: CampaignReport) -> dict[str, str]:
    """What the campaign found, in words: the sentence, and what it does and does not show."""
    row, dense, metric = report.headline, report.dense, report.metric_name
    if row["kind"] == "dense":
        text = f"No pruned network has been measured yet; dense reaches {metric} {dense['metric']:.3f}."
        return {"number": "", "sentence": text, "caveat": "", "ground": ""}
    difference = float(row["difference"])
    relation = f"{abs(difference):.3f} {'above' if difference >= 0 else 'below'} dense"
    if round(abs(difference), 3) == 0:
        relation = "equal to dense"
    half = (row["high"] - row["low"]) / 2
    spread = f" (± {half:.3f})" if math.isfinite(half) else ""
    cost = percent(row["flops_ratio"])
    sentence = f"At {cost} of the FLOPs the {metric} is {row['metric']:.3f}: {relation}{spread}."
    if row["low"] > -TOLERANCE:
        caveat = (
            f"The cheapest network whose own 95 % interval stays within {TOLERANCE} of dense on "
            f"{report.cases} cases; it was chosen among many, so held-out images must confirm it."
        )
    else:
        caveat = f"That a network stays within {TOLERANCE} of dense is not shown by {report.cases} cases."
    ground = (
        "Validation figures after equal, short fine-tuning; this network was picked by these same cases, so "
        "they flatter. Held-out cases decide"
    )
    ground += ": see what was finalised, below." if len(report.tested) else "."
    return {"number": str(row["number"]), "sentence": sentence, "caveat": caveat, "ground": ground}


def percent(ratio: float) -> str:
    """A ratio in per cent with two or three meaningful digits: 41 %, 6.3 %, 0.52 %."""
    value = 100 * ratio
    digits = 0 if value >= 10 else 1 if value >= 1 else 2
    return f"{value:.{digits}f} %"


def figure(value: float, digits: int = 3) -> str:
    """A figure as tables have it; a dash where it is not known."""
    return "–" if value != value else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign, a true minus; a dash where it is not known."""
    if value != value:
        return "–"
    size = f"{abs(value):.{digits}f}"
    return ("±" if float(size) == 0 else "−" if value < 0 else "+") + size


def _cleaned(report: CampaignReport) -> CampaignReport:
    """The report without absolute paths in any text."""
    return dataclasses.replace(
        report,
        id=without_paths(report.id),
        name=without_paths(report.name),
        network=without_paths(report.network),
        data=without_paths(report.data),
        controller=without_paths(report.controller),
        failed=report.failed.assign(error=[without_files(str(error)) for error in report.failed["error"]]),
        groups=report.groups.assign(name=[without_paths(str(name)) for name in report.groups["name"]]),
        latency=report.latency.assign(
            note=None, machine=[_words(text) for text in report.latency["machine"]]
        ),
        prior_outcome=report.prior_outcome.assign(
            group=[without_paths(str(name)) for name in report.prior_outcome["group"]]
        ),
        prior_weights=report.prior_weights.assign(
            expert=[without_paths(str(name)) for name in report.prior_weights["expert"]]
        ),
        provenance={without_paths(k): without_paths(str(v)) for k, v in report.provenance.items()},
    )


def _words(text: object) -> str:
    return without_files(str(text or ""))


def _json(payload: object) -> str:
    """JSON that no parser of HTML can take for markup."""
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNSAFE_IN_SCRIPT)


def _script(text: str) -> Markup:
    """A script as it stands between its tags once parsed, so that its hash is the browser's."""
    return Markup(text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script"))


def script_policy(scripts: Iterable[str]) -> str:
    """A content security policy that lets these scripts run, and nothing else, and loads nothing."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def template_text(name: str) -> str:
    """One of our own templates, as it is."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
