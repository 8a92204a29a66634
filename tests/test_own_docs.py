"""What docs/own-data.md and docs/own-network.md show is what the configuration takes."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from evaluators.data.sources import SOURCES
from evaluators.settings import DataSettings, NetworkSettings, Settings
from search.config import PruningSettings
from tests import tiny

DOCS = Path(__file__).parents[1] / "docs"
TABLES: dict[str, type[Settings]] = {
    "data": DataSettings,
    "network": NetworkSettings,
    "pruning": PruningSettings,
}
PAGES = ("own-data.md", "own-network.md")


@pytest.mark.parametrize("page", PAGES)
def test_settings_shown_are_settings(page: str) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), flags=re.S)
    assert len(blocks) >= 2
    for block in blocks:
        for name, table in tomllib.loads(block).items():
            TABLES[name].model_validate(table)


def test_every_source_is_told_of() -> None:
    text = (DOCS / "own-data.md").read_text()
    assert all(f"| `{scheme}:" in text for scheme in SOURCES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text()):
        assert (DOCS / target).exists(), target


def test_the_python_shown_runs() -> None:
    [block] = re.findall(r"```python\n(.*?)```", (DOCS / "own-network.md").read_text(), flags=re.S)
    names: dict[str, object] = {"network": tiny.cnn(channels=3)}
    exec(block, names)
    small = names["small"]
    assert isinstance(small, torch.nn.Module)
    assert sum(p.numel() for p in small.parameters()) < 12_000
