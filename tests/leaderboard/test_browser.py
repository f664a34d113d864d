"""The site in a real browser: what a script adds, and that nothing is asked of anybody."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fedbench.leaderboard import load_board, render
from fedbench.leaderboard.page import site

# The policy of every page refuses evaluated strings, which is how `wait_for_function` looks again: what changes after a
# click is awaited with `expect`, which looks again from outside of the page.
CHROMIUM = shutil.which("chromium")
FIRST_VIEW = 3_000_000  # bytes
pytestmark = [pytest.mark.long, pytest.mark.browser]


@pytest.fixture(scope="module")
def chromium():
    """Return a running browser."""
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--headless"])
        yield browser
        browser.close()


class Visit:
    """Open pages of one site, and remember what they asked for and complained about."""

    def __init__(self, browser, out, **settings):
        self.out = out
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings)
        self.messages, self.requests = [], []

    def open(self, name):
        page = self.context.new_page()
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto((self.out / name).as_uri())
        return page

    def close(self):
        self.context.close()
        root = self.out.as_uri()
        assert [url for url in self.requests if not url.startswith((root, "data:"))] == []
        assert self.messages == []


@pytest.fixture(scope="module")
def out(shown, tmp_path_factory):
    """Return the folder of the demonstration's site."""
    folder = tmp_path_factory.mktemp("browser") / "out"
    render(shown, "demo", folder)
    return folder


@pytest.fixture
def visit(chromium, out):
    """Return a visit to the demonstration; when it is over nothing was asked of anybody and nobody complained."""
    visit = Visit(chromium, out)
    yield visit
    visit.close()


def expect(subject):
    """Return Playwright's assertions, which look again until they hold or time is up."""
    from playwright import sync_api

    return sync_api.expect(subject)


def expect_names(page, board, *names):
    """Expect these methods, and no others, to be seen in the table of one board, in this order."""
    rows = page.locator(f"#{board} table.results tbody.rows:not(.references) tr:visible th a")
    expect(rows).to_have_text([re.compile(rf"^\s*{name}(\[|\s*$)") for name in names])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (360, 740)], ids=["desktop", "phone"])
def test_every_page_fits_and_follows_the_colour_scheme(chromium, out, size, scheme):
    paths = sorted(out.rglob("*.html"))
    assert len(paths) > 12
    visit = Visit(chromium, out, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    for path in paths:
        name = path.relative_to(out).as_posix()
        page = visit.open(name)
        for summary in page.locator("summary:visible").all():
            summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") == size[0], name
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in light[4:-1].split(",")) > 384) == (scheme == "light")
        if "FEDBENCH_SCREENSHOTS" in os.environ:
            shot = f"{name.removesuffix('.html').replace('/', '-')}-{size[0]}-{scheme}.png"
            page.screenshot(path=Path(os.environ["FEDBENCH_SCREENSHOTS"], shot), full_page=True)
        page.close()
    visit.close()


def test_one_table_at_a_time_and_a_link_opens_another(visit):
    page = visit.open("index.html")
    shown = page.locator(".board:visible")
    expect(page).to_have_title("Board · A demonstration · FedBench")
    # Over all tasks there is no complete method, so the first task with something to compare is shown.
    expect(shown).to_have_id("board-2")
    page.select_option("select[name=task]", label="Task beta")
    expect(shown).to_have_id("board-3")
    page.select_option("select[name=task]", label="one below the other")
    expect(shown).to_have_count(3)
    page.evaluate("location.hash = '#board-1'")
    expect(shown).to_have_id("board-1")


def test_sorting_by_mouse_and_by_keyboard_best_first_and_holes_last(visit):
    page = visit.open("index.html")
    expect_names(page, "board-2", "fedkper", "fedavg", "fedper", "fedprox")
    accuracy = page.locator("#board-2 thead button", has_text="Accuracy, mean over rounds").first
    accuracy.click()
    # 80, 70 of two seeds, 60, and one without a global model.
    expect_names(page, "board-2", "fedkper", "fedprox", "fedavg", "fedper")
    expect(page.locator("#board-2 [aria-sort]")).to_have_attribute("aria-sort", "descending")
    accuracy.focus()
    page.keyboard.press("Enter")
    expect_names(page, "board-2", "fedavg", "fedprox", "fedkper", "fedper")
    # Low ranks and early names are the better ones; who has no rank stays behind.
    page.locator("#board-2 thead button", has_text="Rank").press("Space")
    expect_names(page, "board-2", "fedkper", "fedavg", "fedprox", "fedper")
    # Reference points stay where they are.
    expect(page.locator("#board-2 tbody.references th a")).to_have_text(["majority"])


def test_filters(visit):
    page = visit.open("index.html")
    page.fill("input[name=name]", "PER")
    expect_names(page, "board-2", "fedkper", "fedper")
    expect(page.locator("#shown")).to_have_text("2 of 4 rows shown")
    page.select_option("select[name=family]", "personalised")
    expect_names(page, "board-2", "fedper")
    page.fill("input[name=name]", "")
    page.select_option("select[name=family]", "")
    page.select_option("select[name=tag]", "weighting")
    expect_names(page, "board-2", "fedkper")
    expect(page.locator("#board-2 tbody.references tr:visible")).to_have_count(1)
    page.select_option("select[name=tag]", "")
    expect(page.locator("#board-2 th:visible", has_text="Balance")).to_have_count(1)
    page.locator("label", has_text="Both").locator("input").uncheck()
    expect(page.locator("#board-2 th:visible", has_text="Balance")).to_have_count(0)


def test_a_value_tells_its_interval_where_the_mouse_rests(visit):
    page = visit.open("index.html")
    cell = page.locator("#board-2 td", has_text="60.0 ± 24.8").first
    cell.hover()
    expect(cell).to_have_attribute("title", "95 % t interval 35.2 to 84.8 %, n = 3 seeds")


def test_links_lead_through_the_site(visit):
    # A click does not wait for the page that it leads to; what is expected of that page does.
    page = visit.open("index.html")
    page.locator("#board-2 a", has_text="fedkper").click()
    expect(page.locator("h1")).to_have_text("fedkper")
    page.get_by_role("link", name="E1").first.click()
    expect(page).to_have_url(re.compile(r"about\.html#environment-E1$"))
    page.get_by_role("link", name="Tasks", exact=True).click()
    expect(page).to_have_url(re.compile(r"out/tasks\.html$"))
    page.get_by_role("link", name="alpha").click()
    expect(page.locator("svg.bubbles circle")).to_have_count(4)
    page.get_by_role("link", name="Board").click()
    expect(page).to_have_url(re.compile(r"out/index\.html$"))


def test_the_copy_button_gives_the_command(chromium, out):
    visit = Visit(chromium, out, permissions=["clipboard-read", "clipboard-write"])
    page = visit.open("methods/fedavg.html")
    button = page.locator(".copy").first
    button.click()
    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == (
        "fedbench run --suite demo --task alpha --method fedavg --seed 1 --out again"
    )
    visit.close()


def test_a_chart_becomes_interactive_when_it_comes_into_view(visit):
    page = visit.open("tradeoff.html")
    drawing = page.locator(".board.current .drawing").first
    drawing.scroll_into_view_if_needed()
    twin = drawing.locator(".drawn")
    expect(twin.locator("svg").first).to_be_visible()
    expect(drawing.locator("img")).to_have_count(0)
    # Whoever does not see it is read the description, not a list of marks.
    expect(twin).to_have_attribute("aria-label", re.compile(r"^Local accuracy against global accuracy on alpha"))
    expect(twin.locator("svg").first).to_have_attribute("aria-hidden", "true")


def test_without_scripts_everything_is_there(chromium, out):
    visit = Visit(chromium, out, java_script_enabled=False)
    page = visit.open("index.html")
    expect(page.locator("table.results:visible")).to_have_count(3)
    expect(page.locator("#filters:visible")).to_have_count(0)
    page = visit.open("tradeoff.html")
    images = page.locator(".drawing img")
    images.first.scroll_into_view_if_needed()
    expect(images.first).to_be_visible()
    assert images.first.bounding_box()["height"] > 100
    visit.close()


def test_the_first_view_is_small(chromium, lab, tmp_path, monkeypatch):
    """40 methods on 10 tasks with 5 seeds; how quick it is, ``benchmarks/first_view.py`` measures."""
    for method in range(40):
        for seed in range(5):
            lab.done("task", f"method-{method}", seed, (method * 7 + seed) % 10 / 10)
    results = lab.finish()
    board = load_board(results, "demo")
    board = replace(board, tasks=tuple(copied(board.tasks[0], f"task-{n}") for n in range(10)))
    # Charts are for other pages and would take a minute here.
    monkeypatch.setattr("fedbench.leaderboard.figures.figure_pages", lambda _: [])
    files = site(board)
    for name, text in files.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text, encoding="utf-8")
    visit = Visit(chromium, tmp_path / "out")
    page = visit.open("index.html")
    expect(page.locator("tbody.rows tr:visible")).to_have_count(40)  # of the one table that is shown at first
    asked = {url.partition("/out/")[2] for url in visit.requests}
    assert {"index.html", "assets/site.js", "assets/style.css"} <= asked
    assert sum(len(files[name].encode()) for name in asked) < FIRST_VIEW
    visit.close()


def copied(task, name):
    """Return the board of a task under another name."""
    rows = tuple(
        replace(
            row,
            cells=tuple(replace(cell, planned=cell.planned.model_copy(update={"task": name})) for cell in row.cells),
        )
        for row in task.rows
    )
    return replace(task, name=name, rows=rows)
