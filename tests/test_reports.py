"""Tables, figures and the page: the numbers first, then that nothing unsafe or private gets onto the page."""

import base64
import hashlib
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
from reports.figures import compare_figure, front_figure, history_figure, ratios_figure
from reports.page import answer, percent, render, write_report
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
    assert len(front_table(frame, 10_000)) == (frame["front"] | frame["advised"]).sum()
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


def trace(figure: go.Figure, name: str) -> go.Scatter:
    return next(item for item in figure.data if item.name == name)


def test_the_front_figure_shows_every_network_of_the_frame() -> None:
    frame = samples.report().trials
    figure = front_figure(frame, "AUC", selected=int(frame["number"].iloc[-1]))
    shown = np.concatenate(
        [trace(figure, name).customdata for name in ("others", "plausible", "ladder", "dense")]
    )
    assert sorted(shown[:, 0]) == sorted(frame["number"])
    bars = trace(figure, "intervals")
    on_front = frame[frame["front"] & frame["kind"].ne("dense")]
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
    assert np.allclose(history.data[0].y, report.history["hypervolume"])
    genome = report.trials["genome"].iloc[-1]
    kept = ratios_figure(report.groups, genome).data[1]
    assert np.allclose(kept.y, 100 * np.array(genome) / np.array(samples.UNITS))
    assert [int(text) for text in kept.text] == list(genome)
    compared = compare_figure({"one": report.trials, "two": report.trials})
    assert [item.name for item in compared.data] == ["one", "two"]


def test_every_colour_of_a_figure_has_a_dark_partner() -> None:
    report = samples.report()
    drawn = [
        front_figure(report.trials, "AUC", 3),
        history_figure(report.history, report.ladder_hypervolume, "AUC"),
        ratios_figure(report.groups, report.trials["genome"].iloc[0]),
        compare_figure({str(i): report.trials for i in range(6)}),
    ]
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
    assert len(page.encode()) < 6e6
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
    assert len(scripts) == 2
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
    assert data_of(page)["compare"] is None
    assert len(data_of(both)["compare"]["data"]) == 2
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
