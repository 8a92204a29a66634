"""The meta-prior: what it learns from families of tasks, how it is chosen, kept and refused."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.bank_files import read_bank, recorded
from benchmarks.pairs import FREE
from search.cli import main
from search.controllers.structured.model import DamageModel, Setting
from search.controllers.structured.terms import Terms
from search.prior import evaluation, file
from search.prior.corpus import Origin, PastCampaign, past_campaign, read_corpus, sets_of
from search.prior.evaluation import assess, fit_prior
from search.prior.features import GROUP_FEATURES, group_features
from search.prior.file import VERSION, load_prior, save_prior
from search.prior.model import META, Choice, LayerPrior
from search.store.archive import Store
from search.store.entries import CampaignEntry, CampaignRow
from spaces.errors import ConfigError, InputError, StoreError
from spaces.messages import Outcome, Record
from tests.analytic_family import TAUGHT, FamilyTask, family_prior

NEW = (100, 101, 102)


@pytest.fixture(scope="module")
def prior() -> LayerPrior:
    return family_prior()


# What it learns


def test_it_foresees_which_groups_matter_in_networks_it_never_saw(prior: LayerPrior) -> None:
    for seed in NEW:
        task = FamilyTask(seed)
        expected = prior.expect(task.groups).belief(META)
        found = np.corrcoef(np.log(expected.slopes.mean(axis=1)), np.log(task.steepness))[0, 1]
        assert found > 0.7
        assert expected.slopes.min() > 0
        assert expected.slopes.mean() == pytest.approx(1)


def test_leave_one_out_prefers_transfer_where_there_is_something_to_transfer(prior: LayerPrior) -> None:
    assert prior.choice.kind != "mean"
    assert prior.quality["gain_nats"] > 0
    assert prior.quality["coverage_when_chosen"] >= 0.85
    assert set(prior.quality["data_sets"]) == {"set0", "set1", "set2"}


def test_without_shared_structure_it_does_not_claim_to_know_better() -> None:
    """Groups whose damage has nothing to do with their descriptors: nothing transfers, and it says so."""
    rng = np.random.default_rng(5)
    campaigns = []
    for seed, source in TAUGHT:
        campaign = FamilyTask(seed, own=1.0).campaign(source)
        order = rng.permutation(len(campaign.groups))
        mixed = [
            {**group, "descriptors": campaign.groups[i]["descriptors"]}
            for group, i in zip(campaign.groups, order, strict=True)
        ]
        campaigns.append(type(campaign)(**{**vars(campaign), "groups": mixed}))
    shuffled = fit_prior(campaigns)
    assert shuffled.quality["gain_nats"] < 0.15
    task = FamilyTask(NEW[0])
    slopes = shuffled.expect(task.groups).belief(META).slopes
    assert slopes.std() < 0.6


def test_features_out_of_range_are_held_and_doubted(prior: LayerPrior) -> None:
    task = FamilyTask(NEW[0])
    groups = [dict(group) for group in task.groups]
    groups[0]["descriptors"] = {**groups[0]["descriptors"], "effective_rank": 40.0}
    usual, strange = (prior.expect(some) for some in (task.groups, groups))
    assert strange.outside[0] > 0
    assert strange.belief(META).doubt[0] > usual.belief(META).doubt[0]
    assert np.isfinite(strange.belief(META).slopes).all()


def test_features_mean_the_same_in_every_network() -> None:
    features = group_features(FamilyTask(0).groups)
    assert features.shape == (len(FamilyTask(0).groups), len(GROUP_FEATURES))
    assert features.mean(axis=0) == pytest.approx(0, abs=1e-12)
    bare = [{"channels": 8}, {"channels": 8}]
    assert (group_features(bare) == 0).all()


def test_campaigns_of_one_data_set_say_what_cannot_be_known() -> None:
    alone = fit_prior([FamilyTask(seed).campaign("set0") for seed in range(3)])
    assert "cannot be known" in alone.quality["unknown"]
    assert alone.choice == Choice()


def test_what_has_seen_the_images_is_left_out(prior: LayerPrior) -> None:
    clean = prior.guarded("set1", "other pixels")
    assert {lesson.origin.source for lesson in clean.lessons} == {"set0", "set2"}
    assert len(prior.guarded("renamed", "data of set2").lessons) == 4
    with pytest.raises(ConfigError, match="set0 only"):
        prior.without(lambda lesson: lesson.origin.source == "set0").guarded("set0", "x")


def test_the_variant_without_a_data_set_is_what_the_others_alone_chose(prior: LayerPrior) -> None:
    clean = prior.unseen("npz:SET1.npz", "x")
    assert {lesson.origin.source for lesson in clean.lessons} == {"set0", "set2"}
    assert clean.choice == Choice(**prior.quality["data_sets"]["set1"]["choice"])
    assert prior.unseen("new", "x").choice == prior.choice


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("medmnist:breastmnist", "npz:/data/BreastMNIST.npz", True),
        ("medmnist:breastmnist", "npz:breastmnist_64.npz", True),
        ("medmnist:breastmnist", "medmnist:pneumoniamnist", False),
        ("npz:mine.npz", "medmnist:breastmnist + npz:mine.npz", True),
        ("decathlon:Task04_Hippocampus", "npz:hippocampus3d.npz", True),
        ("npz:adrenalmnist3d.npz", "medmnist:organmnist3d", False),
        ("nnunet:/raw/Dataset004_Hippocampus", "npz:hippocampus3d.npz", True),
        ("npz:Breastmnist-64.npz", "folder:/mine/BUSI", True),
        ("folder:data-science-bowl-2018", "npz:dsb2018_nuclei.npz", True),
    ],
)
def test_data_is_known_by_its_name_whatever_it_is_read_from(one: str, other: str, same: bool) -> None:
    assert Origin("c", "c", one, "print", "network", 9).shares_data(other, "another print") is same


def test_sources_that_share_data_are_one_data_set() -> None:
    forms = ["medmnist:breastmnist", "npz:mine.npz", "npz:breastmnist_64.npz", "npz:mine.npz + npz:new.npz"]
    origins = [Origin(source, "c", source, f"print of {source}", "network", 9) for source in forms]
    assert sets_of(origins) == [forms[0], forms[1], forms[0], forms[1]]
    joined = sets_of([*origins, replace(origins[0], source="medmnist:breastmnist + npz:new.npz")])
    assert set(joined) == {forms[0]}
    fitted = fit_prior([FamilyTask(seed).campaign(source) for seed, source in enumerate(forms[::2])])
    assert "cannot be known" in fitted.quality["unknown"]


def test_a_target_of_several_known_data_sets_is_met_by_a_model_that_none_of_them_chose(
    prior: LayerPrior,
) -> None:
    clean = prior.guarded("npz:set1.npz + npz:set2.npz", "other pixels")
    assert {lesson.origin.source for lesson in clean.lessons} == {"set0"}
    assert clean.choice == Choice()


def test_many_data_sets_are_left_out_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    campaigns = [FamilyTask(seed).campaign(f"set{seed}", 30) for seed in range(4)]
    monkeypatch.setattr(evaluation, "FOLDS", 2)
    rows = fit_prior(campaigns).quality["data_sets"]
    assert list(rows) == [f"set{i}" for i in range(4)]
    assert all(row["campaigns"] == 1 for row in rows.values())
    assert rows["set0"]["choice"] == rows["set2"]["choice"]


def test_without_ladders_nothing_is_tested_and_it_says_so() -> None:
    campaigns = [FamilyTask(seed).campaign(f"set{seed}", 30) for seed in range(2)]
    bare = [replace(one, first=np.zeros(len(one.first), dtype=bool)) for one in campaigns]
    fitted = fit_prior(bare)
    assert "no campaign has tried a ladder" in fitted.quality["unknown"]
    assert fitted.choice == Choice()


def test_assessing_uses_no_lesson_on_the_same_data(prior: LayerPrior) -> None:
    (own,) = assess(prior, [FamilyTask(0).campaign("set0")])
    (new,) = assess(prior, [FamilyTask(NEW[0]).campaign("new")])
    assert (own["lessons"], new["lessons"]) == (4, 6)
    assert new["meta"] > new["flat"]


# The corpus


def test_a_corpus_is_what_was_stored(tmp_path: Path) -> None:
    url, task = f"sqlite:///{tmp_path / 'a.db'}", FamilyTask(3)
    campaign_id = task.store(url, "set1")
    (stored,), skipped = read_corpus([url, url])
    made = task.campaign("set1", 40)
    assert stored.origin.id == campaign_id
    assert not skipped
    assert stored.space.groups == made.space.groups
    assert stored.first.sum() == 5
    order = np.lexsort(stored.evidence.genomes.T), np.lexsort(made.evidence.genomes.T)
    np.testing.assert_array_equal(stored.evidence.genomes[order[0]], made.evidence.genomes[order[1]])
    np.testing.assert_allclose(stored.evidence.readings[order[0]], made.evidence.readings[order[1]])
    np.testing.assert_allclose(stored.octaves[order[0]], made.octaves[order[1]])


def test_damage_is_of_the_agreement_where_it_was_measured(tmp_path: Path) -> None:
    """Ranked by whatever: a corpus takes agreement, and who asks for the metric gets that."""
    url, task = f"sqlite:///{tmp_path / 'a.db'}", FamilyTask(3)
    task.store(url, "set1", n=20)
    with Store(url) as store:
        (row,) = store.campaigns()
        records = store.records(row.id)
        agreed = replace(row_entry(row), name="agreed")
        campaign_id = store.create(agreed)
        for i, record in enumerate(records):
            cases = np.linspace(0.9, 1.1, 12).astype(np.float32) * 0.01 * i
            values = {**record.outcome.values, "disagreement": 0.01 * i}
            outcome = Outcome(i, "complete", values, {"disagreement": cases})
            store.append(campaign_id, replace(record, outcome=outcome))
        plain = past_campaign(store, row)
        by_agreement = past_campaign(store, store.campaign(campaign_id))
        by_metric = past_campaign(store, store.campaign(campaign_id), "metric")
    assert isinstance(plain, PastCampaign)
    assert isinstance(by_agreement, PastCampaign)
    assert isinstance(by_metric, PastCampaign)
    assert [found.origin.value for found in (plain, by_agreement, by_metric)] == [
        "metric",
        "agreement",
        "metric",
    ]
    np.testing.assert_array_equal(plain.evidence.sampling, by_metric.evidence.sampling)
    # Each network disagreed more than the one before it, whatever its metric was.
    damage = DamageModel(Terms(plain.space), by_agreement.evidence, Setting(), tune=False).mean
    assert damage[-1] > damage[0]
    assert (np.diag(by_agreement.evidence.sampling) > 0).all()


def test_of_several_rungs_a_corpus_takes_the_last_and_a_controller_had_the_first(tmp_path: Path) -> None:
    url, task = f"sqlite:///{tmp_path / 'a.db'}", FamilyTask(3)
    task.store(url, "set1", n=30)
    with Store(url) as store:
        (row,) = store.campaigns()
        rungs = {"search": {"rungs": ["recalibrate", "shared"]}}
        halved = store.create(replace(row_entry(row), config={**row.config, **rungs}))
        records = store.records(row.id)
        for record in [*records, *records[:20]]:
            number = len(store.records(halved))
            rung = "recalibrate" if number < len(records) else "shared"
            trial = replace(record.trial, number=number, rung=rung)
            store.append(halved, Record(trial, replace(record.outcome, number=number), record.costs))
        last, first = (past_campaign(store, store.campaign(halved), cheapest=c) for c in (False, True))
    assert isinstance(last, PastCampaign)
    assert isinstance(first, PastCampaign)
    assert (last.rung, first.rung) == ("shared", "recalibrate")
    assert (last.origin.trials, first.origin.trials) == (19, len(records) - 1)


def row_entry(row: CampaignRow) -> CampaignEntry:
    return CampaignEntry(
        name=row.name,
        config=row.config,
        fingerprint="f",
        fingerprints=row.fingerprints,
        description=row.description,
    )


def test_campaigns_that_teach_nothing_are_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    FamilyTask(1).store(url, "set0", n=7)
    old = CampaignEntry(name="old", config={}, fingerprint="f", fingerprints={}, description={"groups": [{}]})
    with Store(url) as store:
        store.create(old)
        reasons = [past_campaign(store, row) for row in store.campaigns()]
    assert any("8 are needed" in str(reason) for reason in reasons)
    assert any("before campaigns were described" in str(reason) for reason in reasons)
    with pytest.raises(InputError, match="no campaign to learn from"):
        read_corpus([url])
    with pytest.raises(StoreError, match="there is no store"):
        read_corpus([f"sqlite:///{tmp_path / 'nowhere.db'}"])


# The file


def test_a_file_gives_back_the_same_prior(prior: LayerPrior, tmp_path: Path) -> None:
    saved = save_prior(prior, tmp_path / "p.safetensors")
    loaded = load_prior(tmp_path / "p.safetensors")
    assert len(saved.sha256) == 64
    assert (loaded.sha256, loaded.choice) == (saved.sha256, prior.choice)
    assert loaded.quality == prior.quality
    task = FamilyTask(NEW[0])
    for mine, theirs in zip(
        prior.expect(task.groups).experts,
        loaded.expect(task.groups).experts,
        strict=True,
    ):
        np.testing.assert_array_equal(mine.slopes, theirs.slopes)
    assert save_prior(prior, tmp_path / "again.safetensors").sha256 == saved.sha256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda about: {**about, "version": 99}, "version 99"),
        (lambda about: {**about, "choice": {"kind": "log", "strength": 9.0, "doubt": 0.1}}, "was changed"),
        (lambda about: {**about, "group_features": about["group_features"][::-1]}, "was changed"),
        (lambda about: {"version": VERSION}, "was changed"),
    ],
)
def test_another_version_and_tampering_are_refused(
    prior: LayerPrior, tmp_path: Path, change: object, says: str
) -> None:
    path = tmp_path / "p.safetensors"
    save_prior(prior, path)
    from safetensors import safe_open

    with safe_open(str(path), "numpy") as saved:
        header = saved.metadata()
    header["about"] = json.dumps(change(json.loads(header["about"])))  # type: ignore[operator]
    save_file(load_file(path), path, header)
    with pytest.raises(ConfigError, match=says):
        load_prior(path)


def test_a_prior_of_other_features_is_refused(
    prior: LayerPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_prior(prior, tmp_path / "p.safetensors")
    monkeypatch.setattr(file, "GROUP_FEATURES", GROUP_FEATURES[::-1])
    with pytest.raises(ConfigError, match="other features"):
        load_prior(tmp_path / "p.safetensors")


def test_changed_numbers_and_foreign_files_are_refused(prior: LayerPrior, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    save_prior(prior, path)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="was changed"):
        load_prior(path)
    save_file({"x": np.zeros(2)}, path)
    with pytest.raises(ConfigError, match="but no prior"):
        load_prior(path)
    path.write_text("nothing of the kind")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prior(path)
    with pytest.raises(ConfigError, match="is not there"):
        load_prior(tmp_path / "nowhere")


# The one that comes with the program


def test_the_builtin_prior_is_of_the_banks_on_freely_licensed_data() -> None:
    prior = load_prior("builtin")
    taught = {lesson.origin.name for lesson in prior.lessons}
    assert taught == {pair for pair in recorded() if pair.split("-")[0] in FREE}
    assert {lesson.origin.value for lesson in prior.lessons} == {"agreement"}
    assert set(prior.quality["data_sets"]) == {lesson.origin.source for lesson in prior.lessons}


def test_the_builtin_prior_leaves_out_the_target_in_whatever_form_it_comes() -> None:
    prior = load_prior("builtin")
    for source in ("npz:/somewhere/BreastMNIST.npz", "decathlon:/mine/Task04_Hippocampus"):
        clean = prior.guarded(source, "other pixels")
        left_out = {lesson.origin.source for lesson in prior.lessons} - {
            lesson.origin.source for lesson in clean.lessons
        }
        assert len(left_out) == 1
        assert clean.choice == Choice(**prior.quality["data_sets"][left_out.pop()]["choice"])


def test_a_bank_is_a_past_campaign_with_the_noise_that_was_recorded() -> None:
    bank = read_bank("nuclei-unet")
    for value in ("agreement", "metric"):
        past = bank.past(value)
        assert past.origin.value == value
        assert past.first.sum() == len(bank.about["ladder"])
        assert len(past.octaves) == len(past.evidence.genomes) == past.origin.trials
        assert (np.diag(past.evidence.sampling) >= 0).all()
        damage = DamageModel(Terms(past.space), past.evidence, Setting(), tune=False).mean
        assert np.corrcoef(damage, past.octaves)[0, 1] < -0.5


# The command


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["paretoprune", "prior", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_fit_show_and_evaluate(call: Callable[..., tuple[int, str, str]]) -> None:
    for seed in range(4):
        FamilyTask(seed).store(f"sqlite:///{'ab'[seed % 2]}.db", f"set{seed}")
    FamilyTask(5).store("sqlite:///b.db", "set5", n=6)
    status, out, err = call("fit", "a.db", "sqlite:///b.db", "--out", "p.safetensors")
    assert status == 0, err
    assert "4 campaigns" in out
    assert "left out family5" in err
    status, out, _ = call("show", "p.safetensors", "--format", "json")
    about = json.loads(out)
    assert about["sha256"] == load_prior("p.safetensors").sha256
    assert {campaign["source"] for campaign in about["campaigns"]} == {f"set{i}" for i in range(4)}
    status, out, _ = call("evaluate", "p.safetensors", "a.db")
    assert status == 0
    assert [line[:7] for line in out.splitlines()[:3]] == ["campaig", "family0", "family2"]
    shown = call("show", "p.safetensors")[1]
    assert shown.startswith("4 campaigns")
    assert max(len(line) for line in [*out.splitlines(), *shown.splitlines()]) <= 80


def test_what_a_prior_of_one_data_set_cannot_know_is_said(call: Callable[..., tuple[int, str, str]]) -> None:
    for seed in range(2):
        FamilyTask(seed).store("sqlite:///one.db", "set0")
    status, out, _ = call("fit", "one.db", "--out", "one.safetensors")
    assert status == 0
    assert "what carries over to other data" in out
    status, out, _ = call("evaluate", "one.safetensors", "one.db")
    assert status == 0
    assert "2 campaigns without lessons" in out


def test_what_cannot_be_fitted_is_one_line(call: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = call("fit", "nowhere.db")
    assert (status, len(err.splitlines())) == (2, 1)
    FamilyTask(5).store("sqlite:///few.db", "set5", n=6)
    status, _, err = call("fit", "few.db")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "8 are needed" in err
    with Store("sqlite:///empty.db"):
        pass
    status, _, err = call("fit", "empty.db")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "at least two data sets" in err
    status, _, err = call("fit", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    assert (status, len(err.splitlines())) == (2, 1), err
    status, _, err = call("show", "few.db")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "prior fit` makes one" in err
    FamilyTask(1).store("sqlite:///good.db", "set0")
    status, _, err = call("fit", "good.db", "--out", "nowhere/p.safetensors")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "choose another --out" in err
    before = Path("good.db").read_bytes()
    for out in ("good.db", "."):
        status, _, err = call("fit", "good.db", "--out", out)
        assert (status, len(err.splitlines())) == (2, 1)
        assert "choose another --out" in err
    assert Path("good.db").read_bytes() == before
    for store in ("p.safetensors", ""):
        status, _, err = call("fit", "good.db", store)
        assert (status, len(err.splitlines())) == (2, 1)
        assert "--out" in err
    status, _, err = call("show", ".")
    assert "is a folder" in err
