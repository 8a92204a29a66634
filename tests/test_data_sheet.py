"""Contact sheets: a row a class, masks outlined, only where somebody asks, readable by the user alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evaluators.data.sheet import COLOURS, contact_sheet
from search.commands.data import app
from tests.data_files import aged, arrays, leave, load, masked, save, several_labels, volumes


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, tmp_path)


def test_a_row_for_each_class_and_as_many_examples_as_asked() -> None:
    splits = load(save(arrays()))
    few, many = (np.asarray(contact_sheet(splits, per_class=n)) for n in (2, 6))
    assert few.shape[0] == many.shape[0]
    assert few.shape[1] < many.shape[1]
    assert np.array_equal(many, np.asarray(contact_sheet(splits, per_class=6)))


@pytest.mark.parametrize("content", [several_labels(labels=3), aged(), arrays(tail=(8, 8, 3))])
def test_every_kind_of_target_has_a_sheet(content: dict[str, np.ndarray]) -> None:
    assert np.asarray(contact_sheet(load(save(content)))).max() > 200


def test_masks_are_outlined_in_two_and_three_dimensions() -> None:
    volumes("task")
    for splits in (load(save(masked())), load("decathlon:task", patch=(6, 6, 6), shares=(0.5, 0.5, 0))):
        pixels = np.asarray(contact_sheet(splits)).reshape(-1, 3)
        assert (pixels == COLOURS[0]).all(axis=1).sum() > 50


def test_a_sheet_is_written_only_where_it_is_asked_for() -> None:
    source = save(arrays())
    assert CliRunner().invoke(app, ["inspect", source]).exit_code == 0
    assert [path.name for path in Path().iterdir() if path.suffix == ".png"] == []
    assert CliRunner().invoke(app, ["inspect", source, "--sheet", "sheet.png"]).exit_code == 0
    assert Path("sheet.png").stat().st_mode & 0o077 == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.width >= 200
    assert CliRunner().invoke(app, ["inspect", source, "--sheet", "none/sheet.png"]).exit_code != 0
