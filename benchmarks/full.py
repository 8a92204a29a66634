"""The tests that are too long for every run, with the date and the machine of each result.

    python -m pytest -m full tests/test_zoo.py -k ResNet50 --junitxml full.xml
    python -m benchmarks.full full.xml [more.xml ...]

Enters the results of these runs into ../docs/test-full.md; newer results replace older ones of the same test.
"""

import argparse
import platform
import sys
from pathlib import Path
from xml.etree import ElementTree

import torch

PAGE = Path(__file__).parent.parent / "docs" / "test-full.md"
HEAD = """\
# Tests that are too long for every run

`make test-full` runs them, too. These are the latest results of each, run piece by piece and entered by
`python -m benchmarks.full`. Other work ran on the machine at the same time: read seconds as indicative. What
each checks is in `tests/test_zoo.py` and `tests/test_random_networks.py`.

| test | result | seconds | date | machine |
|---|---|---|---|---|
"""


def results(path: Path) -> dict[str, str]:
    """Lines of the table, by test, of one run's JUnit file."""
    lines = {}
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        date = suite.attrib["timestamp"][:10]
        for case in suite.iter("testcase"):
            bad = next(
                (kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None
            )
            name = f"{case.attrib['classname'].removeprefix('tests.')}: {case.attrib['name']}"
            took = float(case.attrib["time"])
            lines[name] = f"| {name} | {bad or 'passed'} | {took:.0f} | {date} | {machine()} |"
    return lines


def machine() -> str:
    """This machine, in words."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    python = ".".join(map(str, sys.version_info[:2]))
    return f"{model}, one thread, Python {python}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    known = {}
    for line in PAGE.read_text().splitlines() if PAGE.exists() else ():
        name = line.split("|")[1].strip() if line.startswith("| ") else ""
        if name not in ("", "test"):
            known[name] = line
    for path in parser.parse_args().runs:
        known |= results(path)
    PAGE.write_text(HEAD + "\n".join(known[name] for name in sorted(known)) + "\n")


if __name__ == "__main__":
    main()
