"""The documentation builds without a warning, its commands exist, and its Python runs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from search.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    told = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=told, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert pages >= {"index", "commands", "python", "faq"}
    assert "paretoprune resume" in (tmp_path / "site" / "commands.html").read_text()
    fetched = re.findall(
        r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', (tmp_path / "site" / "index.html").read_text()
    )
    assert not fetched, "a page that needs the network"


def commands(page: Path) -> list[str]:
    """The lines of a page's code blocks that call the program, continued ones joined."""
    blocks = re.findall(r"^```(?:bash|console|sh)?\n(.*?)^```", page.read_text(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        m[1] for line in lines if (m := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?(paretoprune [a-z].*)", line))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    for line in commands(page):
        words = line.partition("#")[0].split()[1:]
        command: Any = root
        while hasattr(command, "commands"):
            assert words[:1], f"{page.name}: {line!r} is cut short"
            assert words[0] in command.commands, f"{page.name}: {line!r}"
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        used = {word.partition("=")[0].strip("[]") for word in words if word.lstrip("[").startswith("--")}
        assert not used - known, f"{page.name}: {line!r}"


def sound(page: Path) -> list[str]:
    """The Python blocks of a page that check themselves: they assert something."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    return [block for block in blocks if "assert " in block]


@pytest.mark.parametrize("page", [page for page in PAGES if sound(page)], ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in sound(page):
        exec(compile(block, page.name, "exec"), {})  # the project's own pages
