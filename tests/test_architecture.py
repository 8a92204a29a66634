"""The rules of the house that hold by themselves: import direction, vendor rooms, lightness, public names."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("spaces", "evaluators", "reports", "search")
MAY_IMPORT = {
    "spaces": {"spaces"},
    "evaluators": {"evaluators", "spaces"},
    "reports": {"reports", "spaces"},
    "search": set(PACKAGES),
    "paretoprune": set(PACKAGES),
}
COMMANDS = {f"search/commands/{path.name}" for path in (ROOT / "search" / "commands").glob("*.py")}
DISPLAYS = {f"search/display/{path.name}" for path in (ROOT / "search" / "display").glob("*.py")}
ROOMS = {  # vendor library -> the only files that may import it
    "deap": {"search/controllers/nsga2.py"},
    "optuna": {"search/controllers/samplers.py"},
    "ray": {"evaluators/pools/cluster.py", "evaluators/pools/tuner.py"},  # the pool; Ray Tune
    "sqlalchemy": {"search/store/archive.py", "search/store/engine.py", "search/store/schema.py"},
    "plotly": {
        *("reports/drawing.py", "reports/figures.py", "reports/class_figures.py"),
        *("reports/detail_figures.py", "reports/graph.py"),
    },
    "jinja2": {"reports/page.py", "reports/examples.py"},
    "kaleido": {"reports/pictures.py"},
    "onnxruntime": {"evaluators/deploy/onnx.py", "evaluators/latency/runtimes.py"},
    "pyarrow": {"evaluators/deploy/embedding.py"},
    "yaml": {"evaluators/bundles.py"},
    "typer": {"search/cli.py", *COMMANDS},
    "nibabel": {"evaluators/data/reading.py"},
    "pydicom": {"evaluators/data/reading.py"},
    "PIL": {"evaluators/data/reading.py", "evaluators/data/sheet.py"},
    "cryptography": {"evaluators/data/sealed.py"},
    "rich": {"search/monitor.py", *DISPLAYS},
}
TORCHLESS = ("space", "costs", "fronts", "intervals", "messages", "objectives", "errors")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FILES.append(ROOT / "paretoprune.py")


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours = {name.partition(".")[0] for name in imported(path)} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("vendor", ROOMS)
def test_vendor_stays_in_its_room(vendor: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name.partition(".")[0] == vendor for name in imported(path))
    }
    assert users <= ROOMS[vendor]
    assert users, f"nobody imports {vendor}"


@pytest.mark.parametrize("name", TORCHLESS)
def test_numbers_need_no_torch(name: str) -> None:
    assert "torch" not in {module.partition(".")[0] for module in imported(ROOT / "spaces" / f"{name}.py")}


@pytest.mark.parametrize("module", ["search.cli", "paretoprune", "spaces", "evaluators", "reports", "search"])
def test_import_is_light(module: str) -> None:
    heavy = "torch ray plotly optuna deap pandas monai sqlalchemy sklearn scipy"
    code = f"import sys, {module}; print([m for m in {heavy!r}.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name",
    ["paretoprune", *PACKAGES, "evaluators.data", "evaluators.tasks", "search.store", "search.controllers"],
)
def test_public_names_resolve_and_are_sorted(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__ == sorted(set(module.__all__))
    for public in module.__all__:  # a submodule of the same name would hide it
        assert not inspect.ismodule(getattr(module, public)), public
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018  # the access is the test


def test_every_file_is_one_room() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: n for name, n in lines.items() if n > 360}


def test_a_foreign_package_of_our_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import search.cli"
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True)
    assert "another package named 'spaces'" in done.stderr.splitlines()[-1]
