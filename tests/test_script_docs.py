"""docs/in-your-script.md does what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "in-your-script.md"


def test_the_page_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    shares = [int(line.partition("%")[0]) for line in capsys.readouterr().out.splitlines()]
    assert shares == sorted(shares, reverse=True)
    assert 15 < shares[1] < 35  # "about a quarter"
    images, masks, small = names["images"], names["masks"], names["small"]
    with torch.no_grad():
        tuned, blank = (
            float(names["loss"](small(images), masks)),
            float(names["loss"](0 * small(images), masks)),
        )
        program = torch.export.load("deployed/model.pt2").module()
        assert torch.allclose(program(images), small(images), atol=1e-4)
    assert tuned < 0.8 * blank  # it has learnt
