"""Tables, figures and the page: the numbers first, then that nothing unsafe or private gets onto the page."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from reports.campaign import CampaignReport
from reports.class_figures import classes_figure, spread_figure
from reports.detail_figures import (
    calibration_figure,
    prior_figure,
    replicates_figure,
    weights_figure,
)
from reports.details import class_frame, final_class_frame, finalised_frame, latency_frame, replicates_frame
from reports.drawing import plotly_js, short_names
from reports.examples import Examples, outlined, png, write_example_page
from reports.figures import MOST_DRAWN, compare_figure, front_figure, history_figure, ratios_figure
from reports.page import answer, percent, render, signed, write_report
from reports.payload import campaign_figures
from reports.pictures import write_pictures
from reports.table import (
    failed_frame,
    flat_until,
    front_table,
    headline,
    history_frame,
    ladder_hypervolume,
    trials_frame,
)
from reports.theme import DARK
from spaces.errors import InputError
from spaces.fronts import front_hypervolume
from spaces.intervals import paired_difference
from spaces.messages import Genome, Outcome, Record, Trial
from spaces.scrubbing import without_files, without_paths
from tests import report_samples as samples

EVIL = "<script>alert('x')</script>\"'&\u2028"


def measured(
    number: int,
    genome: Genome,
    shares: list[float],
    *,
    replicate: int = 0,
    flops: float | None = None,
    rung: str = "finetune",
) -> Record:
    cost = float(sum(genome)) if flops is None else flops
    per_case = {"metric": np.array(shares, np.float32), "loss": np.array(shares, np.float32)}
    values = {"auc": float(np.mean(shares)), "loss": 0.25}
    return Record(
        Trial(number, genome, rung, replicate),
        Outcome(number, "complete", values, per_case),
        {"flops": cost, "params": 2 * cost, "activation_bytes": 4 * cost},
    )


def failed(number: int, genome: Genome, error: str | None) -> Record:
    costs = {"flops": 1.0, "params": 1.0, "activation_bytes": 1.0}
    return Record(Trial(number, genome), Outcome(number, "failed", error=error), costs)


@pytest.fixture
def few() -> list[Record]:
    return [
        measured(0, (8, 8), [0.5, 1.0, 1.0, 0.5]),
        measured(1, (8, 8), [0.75, 1.25, 1.25, 0.75], replicate=1),
        measured(2, (4, 4), [0.5, 0.5, 1.0, 0.5]),
        failed(3, (2, 4), "diverged"),
        measured(4, (4, 6), [0.25, 0.5, 1.0, 0.5]),
    ]


def frame_of(records: list[Record], **options: object) -> pd.DataFrame:
    settings: dict[str, object] = {"metric": "auc", "dense": (8, 8), "ladder": [(4, 4)]}
    return trials_frame(records, **(settings | options))  # type: ignore[arg-type] # settings by name


def test_the_frame_has_one_row_a_network_with_its_replicates_averaged(few: list[Record]) -> None:
    frame = frame_of(few)
    assert frame["number"].tolist() == [0, 2, 4]
    assert frame["genome"].tolist() == [(8, 8), (4, 4), (4, 6)]
    assert frame["kept"].tolist() == [(1, 1), (0.5, 0.5), (0.5, 0.75)]
    assert frame["kind"].tolist() == ["dense", "ladder", "search"]
    assert frame["replicates"].tolist() == [2, 1, 1]
    assert frame["metric"].tolist() == [0.875, 0.625, 0.5625]
    assert frame["flops_ratio"].tolist() == [1, 0.5, 0.625]
    assert frame["params"].tolist() == [32, 16, 20]
    assert frame["front"].tolist() == [True, True, False]
    assert frame["plausible"][frame["front"]].all()


def test_the_interval_is_that_of_the_paired_difference_and_of_the_repeats(few: list[Record]) -> None:
    frame = frame_of(few)
    noise = np.sqrt(0.25**2 / 2)  # dense measured .75 and 1.0
    assert frame.attrs["replicate_sd"] == pytest.approx(noise)
    dense = np.array([0.625, 1.125, 1.125, 0.625])
    mean, se = paired_difference(np.array([0.5, 0.5, 1.0, 0.5]), dense)
    row = frame.iloc[1]
    assert row["difference"] == pytest.approx(mean)
    assert row["se"] == pytest.approx(np.sqrt(se**2 + noise**2 * (1 + 1 / 2)))
    assert row["high"] - mean == pytest.approx(mean - row["low"])
    assert frame.iloc[0][["difference", "se", "low", "high"]].tolist() == [0, 0, 0, 0]


def test_patients_widen_the_interval(few: list[Record]) -> None:
    patients = np.array([0, 1, 1, 0])
    assert frame_of(few, patients=patients)["se"][2] != frame_of(few)["se"][2]


def test_other_rungs_and_the_order_of_the_records_do_not_matter(few: list[Record]) -> None:
    other = measured(9, (4, 4), [9.0] * 4, rung="full")
    pd.testing.assert_frame_equal(frame_of([*few[::-1], other]), frame_of(few))


def test_without_repeats_the_noise_of_training_is_unknown(few: list[Record]) -> None:
    frame = frame_of([few[0], *few[2:]])
    assert np.isnan(frame.attrs["replicate_sd"])
    assert np.isfinite(frame["se"]).all()


def test_without_dense_there_is_nothing_to_report(few: list[Record]) -> None:
    with pytest.raises(InputError, match=r"dense network has no measured auc yet.*resume"):
        frame_of(few[2:])
    with pytest.raises(InputError, match="dense network"):
        frame_of([failed(0, (8, 8), "out of memory")])
    with pytest.raises(InputError, match="dense network"):
        frame_of([])


def test_failed_trials_have_a_frame_of_their_own(few: list[Record]) -> None:
    frame = failed_frame([*few, failed(1, (2, 2), None)])
    assert frame["number"].tolist() == [1, 3]
    assert frame["error"].tolist() == ["no reason recorded", "diverged"]
    assert failed_frame([]).columns.tolist() == frame.columns.tolist()


def test_the_history_ends_at_the_hypervolume_of_the_frame() -> None:
    records = samples.records(40)
    frame = trials_frame(records, metric="auc", dense=samples.DENSE, ladder=samples.LADDER)
    history = history_frame(records[::-1], metric="auc", dense=samples.DENSE, chance=0.5)
    assert history["number"].tolist() == [record.trial.number for record in records]
    dense = frame.loc[frame["kind"] == "dense", "metric"].item()
    end = front_hypervolume(frame["flops_ratio"].to_numpy(), frame["metric"].to_numpy(), dense, 0.5)
    assert history["hypervolume"].iloc[-1] == pytest.approx(end)
    after_ladder = history["hypervolume"].iloc[2 + len(samples.LADDER)]
    assert ladder_hypervolume(frame, 0.5) == pytest.approx(after_ladder)


def test_with_folds_the_search_is_never_below_its_own_ladder() -> None:
    """A further look in one fold only, an easy one: of a ladder network, then of dense."""

    def look(number: int, genome: Genome, score: float, fold: int, replicate: int = 0) -> Record:
        plain = measured(number, genome, [score] * 4)
        return replace(plain, trial=replace(plain.trial, fold=fold, replicate=replicate))

    first = [
        look(0, (8, 8), 0.9, 0),
        look(1, (8, 8), 0.7, 1),
        look(2, (4, 4), 0.9, 0),
        look(3, (4, 4), 0.6, 1),
    ]
    for more in (look(4, (4, 4), 0.98, 0, 1), look(4, (8, 8), 0.98, 0, 1)):
        records = [*first, more]
        frame = frame_of(records)
        ladder = frame[frame["kind"].ne("dense")].iloc[0]
        in_easy_fold = 0.94 if more.trial.genome == (4, 4) else 0.9
        assert ladder["metric"] == pytest.approx((in_easy_fold + 0.6) / 2), "every fold counts by its cases"
        history = history_frame(records, metric="auc", dense=(8, 8), chance=0.5)
        assert history["hypervolume"].iloc[-1] == pytest.approx(ladder_hypervolume(frame, 0.5))


def test_the_front_table_is_the_plausible_front_cheapest_first(few: list[Record]) -> None:
    table = front_table(frame_of(few))
    assert table["flops_percent"].tolist() == sorted(table["flops_percent"])
    first = table.iloc[0]
    assert (first["number"], first["flops_percent"], first["params_percent"]) == (2, 50, 50)
    assert set(table["number"]) == set(frame_of(few).query("plausible | advised")["number"])


def test_a_short_front_table_keeps_dense_and_what_is_advised_along_all_octaves() -> None:
    frame = samples.report().trials
    short = front_table(frame, 6)
    assert len(short) == 6
    assert short["kind"].eq("dense").any()
    assert short["flops_percent"].tolist() == sorted(short["flops_percent"])
    assert short["flops_percent"].iloc[0] < 2 * front_table(frame)["flops_percent"].iloc[0]
    assert short["advised"].sum() >= 5
    shown = frame["front"] | frame["advised"] | frame["kind"].eq("dense")
    assert len(front_table(frame, 10_000)) == shown.sum()
    assert front_table(frame[frame["kind"].eq("dense")], 5)["number"].tolist() == [0]


def row(number: int, flops: float, difference: float, half: float, kind: str = "search") -> dict[str, object]:
    ends = {"low": difference - half, "high": difference + half}
    return {
        "number": number,
        "flops": flops,
        "difference": difference,
        "metric": 0.9 + difference,
        **ends,
    } | {
        "kind": kind,
        "front": True,
    }


def test_the_headline_is_the_cheapest_network_shown_to_keep_the_metric() -> None:
    dense = row(0, 1.0, 0, 0, "dense")
    shown, dearer, unsure = row(1, 0.4, 0.0, 0.01), row(2, 0.6, 0.02, 0.01), row(3, 0.1, -0.01, 0.05)
    assert headline(pd.DataFrame([dense, dearer, shown, unsure]))["number"] == 1
    assert headline(pd.DataFrame([dense, unsure, row(4, 0.05, -0.2, 0.01)]))["number"] == 3
    assert headline(pd.DataFrame([dense, row(4, 0.05, -0.2, 0.01), row(5, 0.1, -0.1, 0.01)]))["number"] == 5
    assert headline(pd.DataFrame([dense]))["number"] == 0


def test_the_answer_is_one_sentence() -> None:
    report = samples.report()
    chosen = report.headline
    words = answer(report)
    assert words["sentence"] == (
        f"At {100 * chosen['flops_ratio']:.0f} % of the FLOPs the AUC is {chosen['metric']:.3f}: "
        f"{abs(chosen['difference']):.3f} below dense (± {chosen['high'] - chosen['difference']:.3f})."
    )
    assert words["caveat"].startswith("The cheapest network whose own 95 % interval stays within 0.02")
    wide = report.trials.assign(low=report.trials["difference"] - 0.5)
    assert "is not shown by 80 cases" in answer(replace(report, trials=wide))["caveat"]
    alone = samples.report(samples.records(0)[:3])
    assert answer(alone)["sentence"].startswith("No pruned network has been measured yet")


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.412, "41 %"), (1, "100 %"), (0.063, "6.3 %"), (0.0052, "0.52 %")]
)
def test_per_cent_has_the_digits_that_matter(ratio: float, text: str) -> None:
    assert percent(ratio) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0123, "−0.012"), (0.5, "+0.500"), (-0.0001, "±0.000"), (float("nan"), "–")]
)
def test_differences_have_a_sign_unless_they_are_none(value: float, text: str) -> None:
    assert signed(value) == text


def trace(figure: go.Figure, name: str) -> go.Scatter:
    return next(item for item in figure.data if item.name == name)


def test_the_front_figure_shows_every_network_of_the_frame() -> None:
    frame = samples.report().trials
    figure = front_figure(frame, "AUC", selected=int(frame["number"].iloc[-1]))
    names = ("others", "plausible", "advised", "ladder", "dense")
    shown = np.concatenate([trace(figure, name).customdata for name in names])
    assert sorted(shown[:, 0]) == sorted(frame["number"])
    bars = trace(figure, "intervals")
    dense = frame.loc[frame["kind"].eq("dense"), "metric"].item()
    on_front = frame[(frame["front"] | frame["advised"]) & frame["kind"].ne("dense")]
    on_front = on_front[on_front["metric"] > dense - 0.115]
    assert np.allclose(bars.error_y.array, on_front["high"] - on_front["difference"])
    steps = trace(figure, "front")
    assert steps.line.shape == "hv"
    assert (np.diff(steps.y) >= 0).all(), "more FLOPs never give less on the front"
    assert trace(figure, "selected").x[0] == pytest.approx(100 * frame["flops_ratio"].iloc[-1])
    assert figure.layout.xaxis.type == "log"
    assert "selected" in {item.name for item in front_figure(frame, "AUC").data}


def test_the_other_figures_show_their_frames() -> None:
    report = samples.report()
    history = history_figure(report.history, report.ladder_hypervolume, "AUC")
    steps = pd.Series(history.data[0].y, history.data[0].x).reindex(report.history["number"] + 1).ffill()
    assert np.allclose(steps, report.history["hypervolume"]), "only changes are drawn"
    genome = report.trials["genome"].iloc[-1]
    kept = ratios_figure(report.groups, genome).data[1]
    assert np.allclose(kept.y, 100 * np.array(genome) / np.array(samples.UNITS))
    assert [int(text) for text in kept.text] == list(genome)
    compared = compare_figure({"one": report.trials, "two": report.trials})
    assert [item.name for item in compared.data] == ["one", "two"]


def test_every_colour_of_a_figure_has_a_dark_partner() -> None:
    report = samples.full_report()
    drawn = [*campaign_figures(report).values(), compare_figure({str(i): report.trials for i in range(6)})]
    colours = set(re.findall(r'"(#[0-9a-fA-F]{3,8})"', "".join(figure.to_json() for figure in drawn)))
    assert colours <= set(DARK)
    assert len(set(DARK.values())) == len(DARK)


@pytest.fixture(scope="module")
def page() -> str:
    return render([samples.report()])


def data_of(page: str) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def own_text(page: str) -> str:
    """The page without plotly.js."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_carries_the_numbers(page: str) -> None:
    report = samples.report()
    campaign = data_of(page)["campaigns"][0]
    assert campaign["columns"]["number"] == report.trials["number"].tolist()
    assert campaign["columns"]["metric"] == pytest.approx(report.trials["metric"].tolist(), rel=1e-5)
    assert campaign["genomes"] == [list(genome) for genome in report.trials["genome"]]
    assert campaign["selected"] == report.headline["number"]
    assert "loss is NaN after step 21" in own_text(page)
    for label, text in report.provenance.items():
        assert label in own_text(page)
        assert text.replace("'", "&#39;") in own_text(page)


def test_the_page_is_small_and_whole(page: str) -> None:
    assert len(page.encode()) < 2e6
    assert page.rstrip().endswith("</html>")


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    text = own_text(page)
    assert not re.search(r"\s(?:src|href)\s*=\s*[\"'](?!#|data:,)", text)
    assert not re.search(r"@import|url\(", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = policy[1].replace("&#39;", "'")
    assert rules.startswith("default-src 'none';")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 3
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules
    assert not re.search(r"script-src[^;]*unsafe", rules)


def evil_report() -> CampaignReport:
    found = samples.records(3)
    found.append(samples.record(99, samples.uniform(0.4), np.random.default_rng(0), error=EVIL))
    words = dict.fromkeys(("id", "name", "network", "data", "controller"), EVIL)
    groups = samples.groups([f"{EVIL}{i}" for i in range(len(samples.UNITS))])
    return samples.report(found, groups=groups, provenance={EVIL: EVIL}, **words)


def test_all_text_is_escaped(page: str) -> None:
    hostile = render([evil_report(), evil_report()])
    assert hostile.count("<script") == page.count("<script")
    assert hostile.count("</script") == page.count("</script")
    assert "alert(&#39;x&#39;)" in hostile
    assert EVIL not in hostile
    assert "\u2028" not in hostile.split('id="data">')[1].split("</script>")[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/data/breast.npz", "breast.npz"),
        ("npz:/home/ann/breast.npz", "npz:breast.npz"),
        ("sqlite:////srv/x/paretoprune.db", "sqlite:paretoprune.db"),
        ("cannot read '/home/Ann Other/x y.pt': gone", "cannot read 'x y.pt': gone"),
        ('File "/opt/a/b.py", line 3', 'File "b.py", line 3'),
        (r"C:\Users\ann\w.pt and \\srv\share\f.npz", "w.pt and f.npz"),
        ("~/x/y.toml --out=/tmp/r/", "y.toml --out=r"),
        ("file:///home/ann/x", "x"),
        ("postgresql://ann:secret@host/db", "postgresql:db"),
        ("examples/breastmnist.toml, AUC/octave, 1/2", "examples/breastmnist.toml, AUC/octave, 1/2"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_component(text: str, shown: str) -> None:
    assert without_paths(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /data/Jane Doe/scan.nii: it's torn", "cannot read <path>: it's torn"),
        ("cannot identify image file 'scans/doe jane.png'", "cannot identify image file '<path>'"),
        ("doe_jane.nii.gz and b.DCM are torn", "<path> and <path> are torn"),
        ("postgresql://ann:secret@host/db is gone", "postgresql:<path> is gone"),
        ("ratio 1/2 of 3 / 4, and/or; torch.nn is fine", "ratio 1/2 of 3 / 4, and/or; torch.nn is fine"),
    ],
)
def test_errors_lose_the_names_of_files_too(text: str, shown: str) -> None:
    assert without_files(text) == shown


def test_no_absolute_path_gets_onto_the_page() -> None:
    secret = "/home/ann/secret"
    found = samples.records(1)
    found.append(samples.record(99, samples.DENSE, np.random.default_rng(0), error=f"{secret}/a.py: no"))
    words = {name: f"x {secret}/{name}" for name in ("id", "name", "network", "data", "controller")}
    groups = samples.groups([f"{secret}/{i}" for i in range(len(samples.UNITS))])
    report = samples.report(found, groups=groups, provenance={"command": f"run {secret}/c.toml"}, **words)
    text = own_text(render([report, report]))
    assert "secret" not in text
    assert "run c.toml" in text
    assert "&lt;path&gt;: no" in text


def test_several_campaigns_share_a_page_and_a_comparison(page: str) -> None:
    both = render([samples.report(), samples.report(name="The other")])
    assert data_of(page)["compare"] == []
    assert [len(figure["data"]) for figure in data_of(both)["compare"]] == [2]
    metrics = render([samples.report(), samples.report(metric="loss")])
    assert [len(figure["data"]) for figure in data_of(metrics)["compare"]] == [1, 1], "one figure a metric"
    assert both.count("<article") == 2
    assert len(both.encode()) < 6e6


@pytest.mark.parametrize("trials", [1, 3, 4])
def test_campaigns_that_have_hardly_begun_have_a_page(trials: int) -> None:
    assert "</html>" in render([samples.report(samples.records(0)[:trials])])


def test_a_single_validation_case_has_no_interval() -> None:
    report = samples.report()
    unknown = report.trials.assign(se=np.nan, low=np.nan, high=np.nan)
    columns = data_of(render([replace(report, trials=unknown)]))["campaigns"][0]["columns"]
    assert set(columns["half"]) == {None}


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    assert write_report(samples.report(), target) == target
    assert target.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the report to .*file/report\.html.*--out"):
        write_report(samples.report(), tmp_path / "file" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write the report"):
        write_report(samples.report(), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    with pytest.raises(InputError, match="at least one campaign"):
        write_report([], tmp_path / "none.html")


def test_importing_reports_loads_neither_pandas_nor_plotly_and_never_torch() -> None:
    check = (
        "import sys, reports; assert not {'pandas', 'plotly', 'torch'} & set(sys.modules);"
        "[getattr(reports, name) for name in reports.__all__]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parents[1])


def test_intervals_cover_where_the_noise_of_training_is_hardly_known() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        records = [
            record(number, genome, rng.normal(0.8, 0.02) + rng.normal(0, 1e-4, 200), replicate=replicate)
            for number, (genome, replicate) in enumerate([((4,), 0), ((4,), 1), ((4,), 2), ((2,), 0)])
        ]
        row = trials_frame(records, metric="auc", dense=(4,)).iloc[1]
        covered.append(row["low"] < 0 < row["high"])
    assert 0.91 < np.mean(covered) < 0.99


def record(number: int, genome: tuple[int, ...], shares: np.ndarray, replicate: int = 0) -> Record:
    """A complete trial with these shares in the metric."""
    values = {"auc": float(shares.mean()), "loss": 0.5}
    outcome = Outcome(number, "complete", values, {"metric": shares, "loss": shares})
    costs = {"flops": float(genome[0]), "params": 1.0, "activation_bytes": 1.0}
    return Record(Trial(number, genome, replicate=replicate), outcome, costs)


def test_what_is_advised_is_shrunken_and_no_dominated_network(few: list[Record]) -> None:
    frame = frame_of(few)
    assert frame["advised"].any()
    searched = frame[frame["kind"].ne("dense")]
    assert searched["estimate"].std() < searched["difference"].std()
    assert frame.loc[frame["kind"].eq("dense"), "estimate"].iloc[0] == pytest.approx(0.0, abs=0.01)


def test_a_task_is_flat_until_a_uniform_network_is_shown_to_lose() -> None:
    rows = [("dense", 1.0, 0.0), ("ladder", 0.5, 0.01), ("ladder", 0.1, 0.002), ("ladder", 0.05, -0.01)]
    frame = pd.DataFrame(rows, columns=["kind", "flops_ratio", "high"]).assign(
        flops=lambda f: f["flops_ratio"]
    )
    assert flat_until(frame) == 0.1
    assert flat_until(frame[frame["kind"].eq("dense")]) == 1.0
    proof = frame.assign(low=-0.5, high=0.5)
    assert flat_until(proof, 0.02) == 1.0, "wide intervals show nothing, neither loss nor the lack of it"


def test_plotlys_script_is_of_the_version_that_the_figures_are_written_for() -> None:
    from plotly.offline import get_plotlyjs_version

    assert f"(basic - minified) v{get_plotlyjs_version()}" in plotly_js()[:200]


def test_classes_come_rarest_first_with_paired_changes() -> None:
    report = samples.report()
    number = int(report.trials["number"].iloc[-1])
    rows = report.classes[report.classes["number"].eq(number)]
    assert rows["class"].tolist() == ["malignant", "benign"]
    assert rows["cases"].tolist() == [22, 58]
    record = next(r for r in samples.records() if r.trial.number == number)
    dense = [r for r in samples.records() if r.trial.genome == samples.DENSE]
    ours = record.outcome.per_case["classes"][:, 1]
    theirs = np.mean([r.outcome.per_case["classes"][:, 1] for r in dense], axis=0)
    mean, se = paired_difference(ours.astype(float), theirs)
    assert rows["difference"].iloc[0] == pytest.approx(mean)
    assert rows["low"].iloc[0] == pytest.approx(mean - 1.99 * se, abs=1e-3)
    figure = classes_figure(report.classes, number)
    assert np.allclose(trace(figure, "validation").x, rows["difference"])
    low, high = figure.layout.xaxis.range
    assert low <= rows["low"].min(), "nothing leaves the axis"
    assert rows["high"].max() <= high


def test_without_classes_there_is_no_section_about_them(few: list[Record]) -> None:
    frame = class_frame(few, [0, 2], metric="auc", dense=(8, 8))
    assert not len(frame)
    assert "difference" in frame.columns


def test_repeats_are_differences_to_their_networks_mean(few: list[Record]) -> None:
    frame = replicates_frame(few, metric="auc", dense=(8, 8))
    assert frame["trial"].tolist() == [0, 1]
    assert frame["number"].tolist() == [0, 0]
    assert frame["deviation"].tolist() == pytest.approx([-0.125, 0.125])
    assert len(replicates_figure(frame, "AUC").data) == 2


def test_latencies_of_other_networks_are_left_out() -> None:
    rows = [*samples.latencies(), {"genome": [1, 2], "median_ms": 1.0}]
    trials = samples.report().trials
    frame = latency_frame(rows, trials[trials["number"].isin([0, 4])])
    assert frame["number"].tolist() == [0, 4]
    assert frame["flops_ratio"].iloc[0] == 1
    assert frame["median_ms"].isna().tolist() == [False, True]
    assert frame["note"].iloc[1] == "it would not run"


def test_what_a_campaign_has_not_got_is_not_on_its_page(page: str) -> None:
    full = render([samples.full_report()])
    for words in (
        "What was expected",
        "How well cheap evaluations rank",
        "Finalised, on held-out test",
    ):
        assert words in full
        assert words not in page
    for name in ("calibration", "replicates", "prior", "weights", "latency"):
        assert f'data-plot="{name}"' in full
        assert f'data-plot="{name}"' not in page
    assert "156 test cases" in full
    assert "Only network 0 (dense) was evaluated more than once" in page


def test_what_was_finalised_is_on_the_page_before_the_test_split_is_opened() -> None:
    networks = [replace(network, test=None, cases=0, openings=0) for network in samples.finals()]
    frame = finalised_frame(networks)
    page = render([replace(samples.report(), finalised=frame)])
    assert "Finalised, not tested yet" in page
    assert "calibration error" not in page
    assert page.count("<td>0.891</td>") == 1, "dense on val"
    some = finalised_frame([*samples.finals()[:2], networks[2]])
    page = render([replace(samples.report(), finalised=some)])
    assert "Finalised, on held-out test cases" in page
    assert page.count("<td>not opened</td>") == 1
    assert "Finalised, " not in render([samples.report()])


def test_test_results_are_drawn_from_denses_line() -> None:
    report = samples.full_report()
    figure = front_figure(report.trials, "AUC", finalised=report.finalised)
    tested = trace(figure, "tested")
    assert np.allclose(tested.y, report.dense["metric"] + np.array([-0.004, -0.021]))
    assert np.allclose(tested.error_y.array, 0.02)
    assert calibration_figure(report.calibration).data[0].x[-1] == pytest.approx(0.8)


def test_every_expert_of_a_prior_is_beside_what_was_observed() -> None:
    report = samples.full_report()
    figure = prior_figure(report.prior_outcome)
    assert [item.name for item in figure.data] == [
        "foreseen by transfer",
        "foreseen by flat",
        "observed in the campaign",
    ]
    assert np.allclose(figure.data[-1].error_y.array, 1.96 * 0.01)
    assert [item.name for item in weights_figure(report.prior_weights).data] == ["transfer", "flat"]


def test_no_array_over_cases_gets_onto_the_page(page: str) -> None:
    def lengths(value: object) -> list[int]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        own = [len(value)] if isinstance(value, list) else []
        return own + [n for item in inner for n in lengths(item)]

    found = samples.records(2)
    assert len(found) < samples.CASES
    numbers = data_of(render([samples.report(found)]))["campaigns"][0]
    for name in ("columns", "genomes", "classes", "tested", "latency", "units"):
        assert samples.CASES not in lengths(numbers[name])
    assert not {"score", "shares_per_case", "per_case", "patients"} & set(numbers["columns"])


def test_of_very_many_networks_the_dominated_ones_are_drawn_thinly() -> None:
    frame = samples.report().trials
    many = pd.concat(
        [frame, *[frame.assign(plausible=False, advised=False, front=False, kind="search")] * 60]
    )
    figure = front_figure(many, "AUC")
    assert len(trace(figure, "others").x) == MOST_DRAWN
    assert len(figure.to_json()) < 400_000


def test_the_ladder_s_name_stays_off_the_axis() -> None:
    def leader(metrics: list[float]) -> float:
        frame = (
            samples.report()
            .trials.head(2)
            .assign(kind=["dense", "ladder"], metric=metrics, high=0.0, difference=0.0)
        )
        notes = front_figure(frame, "AUC").layout.annotations
        return float(next(note.ay for note in notes if note.text == "uniform ladder"))

    assert leader([0.9, 0.899]) > 0, "below the line, where there is room"
    assert leader([0.9, 0.883]) < 0, "no room below"


def test_pictures_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"no.* on the PATH.*BROWSER_PATH"):
        write_pictures([samples.report()], tmp_path)
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(InputError, match=r"pip install 'paretoprune\[png\]'"):
        write_pictures([samples.report()], tmp_path)


def examples(masks: bool) -> Examples:
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    likely = [{"benign": 0.2, "malignant": 0.8}] * 2
    return Examples(
        campaign="/home/ann/x",
        classes=("benign", "malignant"),
        images=images,
        truth=[mask, mask] if masks else ["malignant", "benign"],
        answers={
            "dense": [mask, 0 * mask] if masks else likely,
            "network 7": [mask, mask] if masks else likely,
        },
        masks=masks,
    )


@pytest.mark.parametrize("masks", [False, True])
def test_example_images_have_a_page_of_their_own_that_warns(tmp_path: Path, masks: bool) -> None:
    page = write_example_page([examples(masks)], tmp_path / "x-with-images.html").read_text()
    assert "This file holds images of patients" in page
    assert "/home/ann" not in page
    assert page.count("data:image/png;base64,") == (6 if masks else 2)
    assert "<script" not in page
    if not masks:
        assert "malignant <b>80 %</b>" in page


def test_outlines_run_inside_a_mask_and_pngs_hold_what_was_put_in() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 2
    drawn = outlined(np.zeros((8, 8, 3), np.uint8), mask)
    coloured = drawn.any(axis=-1)
    assert coloured.sum() == 12
    assert not coloured[3:5, 3:5].any()
    assert not coloured[mask == 0].any()
    from PIL import Image

    assert np.array_equal(np.array(Image.open(io.BytesIO(png(drawn)))), drawn)


def test_names_of_groups_are_cut_where_they_stay_distinct() -> None:
    deep = "model.1.submodule.1.submodule"
    names = ["conv1", f"{deep}.residual", f"{deep}.2.conv", "module.1.sub.1.submission.2.conv"]
    assert short_names(names) == ["conv1", "mod.1.sub.1.sub.residual", *names[2:]]


def test_levels_of_the_history_are_named_apart_from_each_other_and_from_the_axis() -> None:
    history = pd.DataFrame({"number": [0, 1], "hypervolume": [0.0, 0.25]})

    def shifts(ladder: float, last: float) -> dict[str, float]:
        figure = history_figure(history.assign(hypervolume=[0.0, last]), ladder, "AUC")
        return {label.text.split()[0]: label.yshift for label in figure.layout.annotations}

    assert shifts(0.2, 0.25) == {"search": 11, "ladder": -11}
    assert shifts(0.25, 0.2) == {"search": -11, "ladder": 11}
    assert shifts(0.0, 0.25) == {"search": 11, "ladder": 11}
    assert shifts(0.0, 0.0) == {"search": 29, "ladder": 11}


def test_classes_on_test_have_their_spread_and_distances() -> None:
    frame = final_class_frame(samples.segmented_finals())
    assert frame["class"].tolist() == ["malignant"] * 3 + ["benign"] * 3, "the rarest first"
    benign = frame[frame["class"].eq("benign")].set_index("number")
    assert benign["dense"].tolist() == [True, False, False]
    assert benign.loc[3, ["p5", "median", "p95"]].tolist() == pytest.approx([0.492, 0.816, 0.93])
    assert benign.loc[5, ["hd_mean", "hd_median", "missed", "invented"]].tolist() == pytest.approx(
        [3.67, 2.5, 0, 1]
    )
    malignant = frame[frame["class"].eq("malignant")]
    assert malignant["hd_mean"].isna().all()
    assert malignant["missed"].tolist() == [2, 2, 2]
    plain = final_class_frame(samples.finals())
    assert plain[["median", "hd_mean", "unit", "missed"]].isna().all().all()


def test_the_page_shows_distances_and_percentiles_where_there_are_any() -> None:
    page = render([samples.full_report(finalised=samples.segmented_finals())])
    for words in ("HD95 in mm: mean / median", "5th percentile", "3.67 / 2.50", "– / –", "invented"):
        assert words in page
    figure = spread_figure(final_class_frame(samples.segmented_finals()), 3)
    network = trace(figure, "network, half")
    assert np.allclose(network.x, [0.766, 0.816])
    assert np.allclose(network.error_x.array, [0.064, 0.064])
    without = render([samples.full_report()])
    assert "By class, on the same test cases" in without
    for words in ("HD95", "5th percentile", 'data-plot="spread"'):
        assert words not in without


def test_no_hypervolume_is_explained_with_a_way_out() -> None:
    assert samples.report().out_of_reach == ""
    assert samples.report(samples.records(0)[:3]).out_of_reach == "", "nothing pruned has been measured"
    report = samples.report(chance=0.99)
    assert report.hypervolume == 0
    assert report.out_of_reach.startswith(
        "Nothing counts for the hypervolume: that begins at AUC 0.990 (chance)"
    )
    assert "proxy.epochs" in report.out_of_reach
    assert "that begins at AUC 0.990" in render([report])
