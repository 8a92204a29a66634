"""The campaign file: what it may say, and what is said about mistakes in it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.config import CampaignConfig, load_config, override, parse_config
from spaces.errors import ConfigError

MINIMAL = {"name": "a", "network": {"factory": "m:f"}, "data": {"source": "phantom:classification"}}
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.toml"))


def message(table: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(table)
    return str(caught.value)


def test_defaults_are_filled_in_and_frozen() -> None:
    config = parse_config(MINIMAL)
    assert config.search.controller == "nsga2"
    assert config.search.lag == 8
    with pytest.raises(ValueError, match="frozen"):
        config.name = "b"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"serch": {}}, "the campaign file has no setting 'serch'; did you mean 'search'?"),
        ({"search": {"controler": "x"}}, "[search] has no setting 'controler'; did you mean 'controller'?"),
        ({"budget": {"trials": 0}}, "budget.trials = 0: should be greater than or equal to 1"),
        ({"budget": {"trials": "many"}}, 'budget.trials = "many": should be a valid integer'),
        ({"network": {}}, "[network] needs the setting 'factory'"),
        ({"data": 3}, "data = 3:"),
        ({"name": "a/b"}, 'name = "a/b": use up to 64 letters'),
        ({"task": {"kind": "detection"}}, "task.kind = \"detection\": should be 'classification'"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(table: dict, said: str) -> None:
    assert said in message(MINIMAL | table)


def test_all_mistakes_are_named_at_once() -> None:
    said = message({"name": "a", "network": {"factry": "m:f"}, "serch": {}})
    assert len(said.splitlines()) == 4  # factory missing, factry unknown, data missing, serch unknown


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no campaign file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "torn.toml").write_text("[network\n")
    with pytest.raises(ConfigError, match=r"torn.toml is not valid TOML: .* line 1"):
        load_config(tmp_path / "torn.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "binary.toml")


def test_the_name_defaults_to_the_files(tmp_path: Path) -> None:
    (tmp_path / "breast.toml").write_text('network.factory = "m:f"\ndata.source = "npz:x.npz"\n')
    assert load_config(tmp_path / "breast.toml").name == "breast"


def test_overrides_replace_settings() -> None:
    table = override(
        MINIMAL, ["budget.trials=7", "search.controller=random", "network.arguments.width=[1, 2]"]
    )
    config = parse_config(table)
    assert (config.budget.trials, config.search.controller) == (7, "random")
    assert config.network.arguments == {"width": [1, 2]}
    assert "arguments" not in MINIMAL["network"], "the caller's table is left alone"


@pytest.mark.parametrize(("item", "said"), [("budget", "table.key=value"), ("name.x=1", "is a value")])
def test_overrides_that_are_none(item: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        override(MINIMAL, [item])


@given(trials=st.integers(1, 10**6), seed=st.integers(0, 2**31), lag=st.integers(0, 64))
def test_the_stored_form_is_the_configuration(trials: int, seed: int, lag: int) -> None:
    config = parse_config(MINIMAL | {"budget": {"trials": trials}, "search": {"seed": seed, "lag": lag}})
    assert parse_config(config.model_dump(mode="json")) == config


def test_differences_name_what_changes_findings() -> None:
    one = parse_config(MINIMAL)
    other = parse_config(override(MINIMAL, ["search.seed=3", "budget.trials=9", "execution.executor=ray"]))
    assert one.differences(other) == ["search.seed: 0 -> 3"]
    assert one.differences(one) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_valid(path: Path) -> None:
    assert isinstance(load_config(path), CampaignConfig)


def test_every_setting_is_described() -> None:
    for table in CampaignConfig.model_fields.values():
        fields = getattr(table.annotation, "model_fields", {})
        for name, field in fields.items():
            assert field.description or name in SELF_EXPLANATORY, name


SELF_EXPLANATORY = {"seed", "batch_size", "learning_rate", "momentum", "weight_decay", "executor", "kind"} | {
    "gpus_per_worker", "rung",
}  # fmt: skip
