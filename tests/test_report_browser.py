"""The page in a real browser: it draws, its views follow each other, it is quiet and asks nobody anything."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reports.page import write_report
from tests import report_samples as samples

pytestmark = pytest.mark.browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DARK_PAPER = "rgb(20, 27, 34)"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("PARETOPRUNE_REQUIRE_BROWSER") == "1":
            pytest.fail("PARETOPRUNE_REQUIRE_BROWSER=1, but there is no Chromium on the PATH")
        pytest.skip("no Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield launched
        launched.close()


class Visit:
    """An opened page and everything it complained about or asked for."""

    def __init__(self, browser, path: Path, **context: object) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog opened"), dialog.dismiss()))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("[data-plot=history] .main-svg")
        self.own = path.as_uri()

    def title(self) -> str:
        return self.page.inner_text("[data-out=title]")

    def column(self, index: int) -> list[str]:
        return self.page.locator(f"[data-table] tbody td:nth-child({index})").all_inner_texts()

    def trace(self, plot: str, name: str) -> dict:
        script = (
            "([plot, name]) => document.querySelector(plot)._fullData.find((trace) => trace.name === name)"
        )
        keys = "(({x, y, customdata}) => ({x: [...x], y: [...y], customdata}))"
        return self.page.evaluate(f"(a) => {keys}(({script})(a))", [f"[data-plot={plot}]", name])


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(samples.report(), tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def visit(browser: object, report_file: Path) -> Iterator[Visit]:
    opened = Visit(browser, report_file)
    yield opened
    opened.context.close()
    assert opened.complaints == []
    assert [url for url in opened.requests if url != opened.own and not url.startswith("data:")] == []


def test_it_draws_and_starts_at_the_headline(visit: Visit) -> None:
    chosen = samples.report().headline
    assert visit.page.locator(".main-svg").count() >= 3
    assert visit.title() == f"Trial {chosen['number']}: found by the search"
    assert visit.trace("front", "selected")["y"] == pytest.approx([chosen["metric"]], rel=1e-4)
    assert visit.page.get_attribute("[data-table] tr.selected", "data-number") == str(chosen["number"])


def test_clicking_a_point_changes_every_view(visit: Visit) -> None:
    trials = samples.report().trials
    before = visit.trace("ratios", "kept")["y"]
    place = visit.page.evaluate(
        """() => {
          const plot = document.querySelector("[data-plot=front]");
          const trace = plot._fullData.find((item) => item.name === "ladder");
          const {xaxis, yaxis} = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          const [left, top] = [box.x + xaxis._offset, box.y + yaxis._offset];
          return {x: left + xaxis.d2p(trace.x[0]), y: top + yaxis.d2p(trace.y[0])};
        }"""
    )
    visit.page.mouse.move(place["x"] - 3, place["y"])
    visit.page.mouse.click(place["x"], place["y"])
    first = trials[trials["kind"] == "ladder"].iloc[0]
    assert visit.title() == f"Trial {first['number']}: a rung of the uniform ladder"
    after = visit.trace("ratios", "kept")["y"]
    assert after == pytest.approx([100 * kept for kept in first["kept"]])
    assert after != before
    assert visit.trace("front", "selected")["y"] == pytest.approx([first["metric"]], rel=1e-4)
    assert f"{first['metric']:.3f}" in visit.page.inner_text("[data-out=facts]")
    kept = visit.page.locator("[data-out=groups] td:nth-child(4)").all_text_contents()
    assert kept == [str(count) for count in first["genome"]]


def test_the_table_chooses_by_keyboard_too(visit: Visit) -> None:
    button = visit.page.locator("[data-table] tbody button").nth(2)
    number = button.inner_text()
    button.focus()
    visit.page.keyboard.press("Enter")
    assert visit.title().startswith(f"Trial {number}:")
    assert button.get_attribute("aria-pressed") == "true"
    visit.page.click("[data-step='1']")
    assert visit.page.get_attribute("[data-table] tr.selected", "data-number") == visit.column(1)[3]
    visit.page.click("[data-step='-1']")
    assert visit.title().startswith(f"Trial {number}:")


def test_stepping_ends_at_the_ends_of_the_front(visit: Visit) -> None:
    visit.page.locator("[data-table] tbody button").first.click()
    assert visit.page.is_disabled("[data-step='-1']")
    visit.page.locator("[data-table] tbody button").last.click()
    assert visit.page.is_disabled("[data-step='1']")


def test_headers_sort_and_say_so(visit: Visit) -> None:
    flops = [float(text.removesuffix(" %")) for text in visit.column(2)]
    assert flops == sorted(flops)
    assert visit.page.get_attribute("[data-table] th:nth-child(2)", "aria-sort") == "ascending"
    header = visit.page.locator("[data-table] th button", has_text="AUC")
    header.click()
    metric = [float(text) for text in visit.column(5)]
    assert metric == sorted(metric, reverse=True)
    assert visit.page.get_attribute("[data-table] th:nth-child(5)", "aria-sort") == "descending"
    assert visit.page.get_attribute("[data-table] th:nth-child(2)", "aria-sort") == "none"
    header.press("Enter")
    assert [float(text) for text in visit.column(5)] == sorted(metric)


def test_the_table_shows_what_is_asked(visit: Visit) -> None:
    trials = samples.report().trials
    for option, expected in (("plausible", trials["plausible"].sum()), ("front", trials["front"].sum())):
        visit.page.select_option("[data-filter]", option)
        assert len(visit.column(1)) == expected
    visit.page.select_option("[data-filter]", "all")
    assert sorted(map(int, visit.column(1))) == sorted(trials["number"])
    assert visit.page.is_hidden("[data-more]")


def test_dark_mode_turns_page_and_figures_and_prints_light(browser: object, report_file: Path) -> None:
    visit = Visit(browser, report_file, color_scheme="dark")
    background = "(selector) => getComputedStyle(document.querySelector(selector)).backgroundColor"
    assert visit.page.evaluate(background, "section") == DARK_PAPER
    paper = "() => document.querySelector('[data-plot=front]')._fullLayout.paper_bgcolor"
    assert visit.page.evaluate(paper) == "#141b22"
    note = f"addEventListener('beforeprint', () => (globalThis.printed = ({paper})()))"
    visit.page.evaluate(f"() => {note}")
    width = "() => document.querySelector('[data-plot=front]')._fullLayout.width"
    screen = visit.page.evaluate(width)
    visit.page.pdf()
    visit.page.wait_for_timeout(300)
    assert visit.page.evaluate(width) == screen
    assert visit.page.evaluate("() => globalThis.printed") == "#ffffff"
    assert visit.page.evaluate(paper) == "#141b22"
    visit.page.locator("[data-table] tbody button").nth(1).click()
    number = visit.column(1)[1]
    visit.page.emulate_media(color_scheme="light")
    visit.page.wait_for_timeout(300)  # the page's policy forbids Playwright's own wait_for_function
    assert visit.page.evaluate(paper) == "#ffffff"
    row = samples.report().trials.set_index("number").loc[int(number)]
    assert visit.trace("front", "selected")["y"] == pytest.approx([row["metric"]], rel=1e-4), (
        "the choice stays"
    )
    visit.context.close()
    assert visit.complaints == []


def test_hostile_names_stay_text(browser: object, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script><a href='javascript:alert(3)'>x</a>"
    report = samples.report(name=evil, network=evil, groups=samples.groups([f"{i}{evil}" for i in range(17)]))
    visit = Visit(browser, write_report([report, samples.report()], tmp_path / "evil.html"))
    assert visit.page.inner_text("h1 >> nth=1") == evil
    assert visit.page.locator("img, main script, a[href^=javascript]").count() == 0
    visit.page.wait_for_timeout(200)
    visit.context.close()
    assert visit.complaints == []
    assert [url for url in visit.requests if url != visit.own and not url.startswith("data:")] == []


def test_a_narrow_screen_does_not_scroll_sideways(browser: object, report_file: Path) -> None:
    visit = Visit(browser, report_file)
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.page.reload()
    visit.page.wait_for_selector("[data-plot=history] .main-svg")
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    visit.context.close()
    assert visit.complaints == []


def test_many_trials_are_shown_in_parts(browser: object, tmp_path: Path) -> None:
    report = samples.report(samples.records(400))
    visit = Visit(browser, write_report(report, tmp_path / "many.html"))
    visit.page.select_option("[data-filter]", "all")
    assert len(visit.column(1)) == 200
    visit.page.click("[data-more]")
    assert len(visit.column(1)) == len(report.trials)
    assert visit.page.is_hidden("[data-more]")
    visit.context.close()
    assert visit.complaints == []
