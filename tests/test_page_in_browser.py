"""The page that shows an edit, in a browser: keys, filter, dark colours, a phone, hostile text.

Screenshots go to build/screenshots, or where HF_TOEDIT_SCREENSHOTS says.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from test_page import HOSTILE, SOURCES, data_of, edited, hostile_page, page, source, transform  # noqa: F401 - fixtures

from hf_toedit.report.page import About

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SCREENSHOTS = Path(os.environ.get("HF_TOEDIT_SCREENSHOTS", ROOT / "build/screenshots"))
NARROW = {"width": 360, "height": 740}
MOST_IN_DOCUMENT = 60  # rows
LARGEST_PAGE = 4_000_000  # bytes


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if BROWSER is None:
        pytest.skip("needs Chromium or Chrome")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open a page, as a file; afterwards see that it asked for nothing else and complained of nothing."""
    contexts, told, asked = [], [], []

    def open_page(html, **options):
        path = tmp_path / f"report-{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(**options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: told.append(message.text))
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert told == []
    assert asked == [(tmp_path / f"report-{i}.html").as_uri() for i in range(len(contexts))]


@pytest.fixture(scope="module")
def thousand(edited):  # noqa: F811
    rows = edited.select([i % len(edited) for i in range(1000)])
    return {"train": rows.select(range(600)), "test": rows.select(range(600, 1000))}


@pytest.fixture(scope="module")
def html(thousand):
    return page(thousand, About(name="docstrings"))


def numbers(tab):
    """The places of the rows in the document, in its order."""
    return tab.locator("article").evaluate_all("(rows) => rows.map((row) => Number(row.ariaPosInSet))")


def gaps(tab):
    """Pixels between each row in the document and the next one."""
    edges = tab.locator("article").evaluate_all(
        "(rows) => rows.map((row) => row.getBoundingClientRect()).map((box) => [box.top, box.bottom])"
    )
    return [below - above for (_, above), (below, _) in itertools.pairwise(edges)]


def sides(row):
    """The text of a row as it is listed, before and after the edits, line by line."""
    lines = [list(zip(line[1::2], line[2::2], strict=True)) for line in row[7]]
    return [["".join(text for kind, text in line if kind != other) + "\n" for line in lines] for other in (2, 1)]


def found(tab):
    return tab.locator("#found").inner_text()


def focused(tab):
    """The place of the row with the focus."""
    return tab.evaluate("Number(document.activeElement.getAttribute('aria-posinset'))")


def is_in_view(tab, place):
    return tab.evaluate(
        """(place) => {
            const outer = document.getElementById('feed').getBoundingClientRect();
            const inner = document.querySelector(`article[aria-posinset="${place}"]`).getBoundingClientRect();
            return inner.top < outer.bottom - 10 && inner.bottom > outer.top + 10;
        }""",
        place,
    )


def shoot(tab, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"report-{name}.png", full_page=True)


def test_a_few_of_many_rows_are_in_the_document(visit, html):
    tab = visit(html)
    assert found(tab) == "1,000 rows"
    assert numbers(tab)[0] == 1
    for top in (0, 5_000, 20_000, 10**7, 3_000):
        tab.evaluate(f"document.getElementById('feed').scrollTop = {top}")
        tab.wait_for_timeout(50)
        places = numbers(tab)
        assert places == list(range(places[0], places[-1] + 1))
        assert len(places) < MOST_IN_DOCUMENT
        assert any(is_in_view(tab, place) for place in places)
        assert (places[-1] == 1000) == (top == 10**7)
        assert gaps(tab) == pytest.approx([0] * (len(places) - 1), abs=1)
    shoot(tab, "light")


def test_keys(visit, html):
    tab = visit(html)
    tab.locator("#feed").focus()
    tab.keyboard.press("ArrowDown")
    assert focused(tab) == 1
    for key, place in (
        ("ArrowDown", 2),
        ("ArrowDown", 3),
        ("ArrowUp", 2),
        ("End", 1000),
        ("ArrowDown", 1000),
        ("Home", 1),
    ):
        tab.keyboard.press(key)
        assert focused(tab) == place, key
        assert is_in_view(tab, place), key
    tab.keyboard.press("PageDown")
    down = focused(tab)
    assert 1 < down < 40
    assert is_in_view(tab, down)
    tab.keyboard.press("PageDown")
    assert focused(tab) > down
    tab.keyboard.press("PageUp")
    tab.keyboard.press("PageUp")
    assert focused(tab) == 1
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "query"
    tab.keyboard.type("a/b")
    assert tab.locator("#query").input_value() == "a/b"
    tab.keyboard.press("Escape")
    assert (tab.locator("#query").input_value(), found(tab)) == ("", "1,000 rows")
    tab.keyboard.press("ArrowDown")
    assert focused(tab) == 1


def test_the_focus_is_seen_and_goes_through_all_controls(visit, html):
    tab = visit(html)
    seen = []
    for _ in range(90):
        tab.keyboard.press("Tab")
        width = tab.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width == "3px"
        seen.append(
            tab.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
        if seen[-1] == "feed":
            break
    assert seen[:3] == ["skip", "A", "theme"]
    assert [name for name in seen if name in ("query", "status", "split", "source", "feed")] == [
        "query",
        "status",
        "split",
        "source",
        "feed",
    ]


def test_the_filter_finds_what_a_search_by_hand_finds(visit, html, thousand):
    tab = visit(html)
    rows = [row for split in thousand.values() for row in split]

    def wanted(condition):
        return sum(map(condition, rows))

    for name, label, condition in (
        ("status", "skipped:empty", lambda row: row["toedit"]["status"] == "skipped:empty"),
        ("source", "web", lambda row: row["source"] == "web"),
    ):
        tab.select_option(f"#{name}", label=label)
        assert found(tab) == f"{wanted(condition)} of 1,000 rows listed"
        tab.select_option(f"#{name}", label="all")
    tab.select_option("#split", label="test")
    assert found(tab) == "400 of 1,000 rows listed"
    tab.fill("#query", "zzz no such text")
    assert found(tab) == "0 of 1,000 rows listed"
    assert numbers(tab) == []
    tab.fill("#query", "")
    tab.select_option("#split", label="all")
    word = rows[0]["text"].split()[0]
    tab.fill("#query", word.upper())
    listed = ["\n".join(map("".join, sides(row))).lower() for row in data_of(html)["rows"]]
    assert found(tab) == f"{sum(word.lower() in text for text in listed)} of 1,000 rows listed"
    first = tab.locator("article").first
    assert word.lower() in first.inner_text().lower()


def test_a_replacement_chosen_in_the_table_is_a_filter(visit, html, thousand):
    tab = visit(html)
    old, new = data_of(html)["replacements"][0]
    button = tab.locator("[data-replacement='0']")
    button.click()
    has = [
        any((e["old"], e["new"]) == (old, new) for e in row["toedit"]["edits"])
        for split in thousand.values()
        for row in split
    ]
    assert found(tab) == f"{sum(has)} of 1,000 rows listed"
    assert button.get_attribute("aria-pressed") == "true"
    tab.locator("#replacement").click()
    assert found(tab) == "1,000 rows"
    assert button.get_attribute("aria-pressed") == "false"


def test_edits_are_told_by_more_than_colour(visit, html):
    tab = visit(html)
    row = tab.locator("article:has(del):has(ins)").first
    style = "(e, [of, name]) => getComputedStyle(e, of)[name]"
    for tag, line, sign in (("del", "line-through", "−"), ("ins", "underline", "+")):
        mark = row.locator(tag).first
        assert mark.evaluate(style, [None, "textDecorationLine"]) == line
        assert sign in mark.evaluate(style, ["::before", "content"])
    tree = row.aria_snapshot()
    assert re.search(r"deletion: deleted \S", tree)
    assert re.search(r"insertion: inserted \S", tree)
    assert row.get_attribute("aria-setsize") == "1000"
    heading = tab.locator("#feed")
    assert heading.get_attribute("role") == "feed"
    tree = tab.locator("body").aria_snapshot()
    for name in ('heading "Rows" [level=2]', 'searchbox "Text"', 'combobox "Status"', "feed", "main", "banner"):
        assert name in tree, name


def luminance(tab, what):
    red, green, blue = map(float, re.findall(r"[\d.]+", tab.evaluate(what))[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


def test_dark_colours_by_setting_and_by_button(visit, html):
    ground = "getComputedStyle(document.body).backgroundColor"
    tab = visit(html, color_scheme="dark")
    assert luminance(tab, ground) < 0.15
    shoot(tab, "dark")
    tab.click("#theme")
    assert luminance(tab, ground) > 0.9
    assert luminance(visit(html, color_scheme="light"), ground) > 0.9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, html, scheme):
    """The contrast of WCAG 2.2, level AA: 4.5 to 1."""
    tab = visit(html, color_scheme=scheme)
    for selector in ("body", ".quiet", "del", "ins", ".count", "a[href^=http]", "summary", ".place"):
        found = tab.locator(f"{selector}:visible" if selector != ".place" else "article .place").first.evaluate(
            """(element) => {
                const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                const luminance = (colour) => {
                    const canvas = new OffscreenCanvas(1, 1).getContext('2d');
                    canvas.fillStyle = colour;
                    canvas.fillRect(0, 0, 1, 1);
                    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => linear(v / 255));
                    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
                };
                let behind = element;
                while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
                const colours = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
                const [a, b] = colours.map(luminance);
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            }"""
        )
        assert found >= 4.5, selector


def test_a_phone(visit, html):
    tab = visit(html, viewport=NARROW)
    assert tab.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    assert numbers(tab)[0] == 1
    assert tab.evaluate("document.querySelector('#feed').scrollWidth <= document.querySelector('#feed').clientWidth")
    shoot(tab, "narrow")
    tab.set_viewport_size({"width": 1000, "height": 700})
    tab.wait_for_timeout(100)
    assert gaps(tab) == pytest.approx([0] * (len(numbers(tab)) - 1), abs=1)


def test_print_has_the_rows_and_not_the_controls(visit, html):
    tab = visit(html)
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print")
    assert tab.locator("article").count() == 200
    assert "… and 800 more rows" in tab.locator("#space").inner_text()
    assert not tab.locator("#query").is_visible()
    tab.emulate_media(media="screen")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert len(numbers(tab)) < MOST_IN_DOCUMENT


def test_hostile_text_is_shown_and_never_run(visit):
    tab = visit(hostile_page())
    tab.wait_for_timeout(200)
    assert tab.evaluate("window.hacked") is None
    shown = tab.locator("#feed").inner_text()
    for text in HOSTILE[:4] + HOSTILE[5:]:
        assert text in shown
    assert "⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩evil" in shown
    assert tab.locator("h1").is_visible()
    assert tab.locator("img, iframe, object, embed, form").count() == 0
    assert tab.evaluate("document.scripts.length") == 2


def test_the_policy_stops_what_would_run_or_load(browser, tmp_path, html):
    """Even if a text became an element."""
    added = "<img src=x onerror='window.hacked=1'><script>window.hacked=2</script><script src=a.js></script>"
    for name in ("x", "a.js", "a.css"):
        (tmp_path / name).touch()
    path = tmp_path / "report.html"
    path.write_text(html.replace("<main>", f"<main>{added}<link rel=stylesheet href=a.css><p style='color:red' id=p>"))
    context = browser.new_context()
    tab = context.new_page()
    loaded = []
    tab.on("requestfinished", lambda request: loaded.append(request.url))
    tab.goto(path.as_uri())
    tab.evaluate("fetch('https://example.org/').catch(() => {})")
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.querySelector('img').naturalWidth") == 0
    assert tab.evaluate("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
    assert tab.locator("article").count()
    context.close()
    assert loaded == [path.as_uri()]


def test_without_a_script_the_figures_are_there(visit, html):
    tab = visit(html, java_script_enabled=False)
    assert tab.locator(".tiles dd").first.inner_text() == "1,000"
    assert tab.locator("noscript").inner_text() == "The list needs JavaScript; nothing else on this page does."
    assert not tab.locator("#feed").is_visible()


@pytest.mark.slow
def test_a_hundred_thousand_rows(visit, edited):  # noqa: F811
    rows = edited.select([i % 19 for i in range(100_000)]).flatten_indices()
    html = page(rows, About(name="docstrings"))
    assert len(html.encode()) < LARGEST_PAGE
    is_edited = [bool(struct["edits"]) for struct in edited["toedit"]]
    total = sum(is_edited[i % 19] for i in range(100_000))
    assert f"2,000 of {total:,} edited" in html
    tab = visit(html)
    assert tab.locator(".tiles dd").first.inner_text() == "100,000"
    tab.locator("#feed").focus()
    tab.keyboard.press("End")
    data = data_of(html)
    assert focused(tab) == len(data["rows"])
    assert len(numbers(tab)) < MOST_IN_DOCUMENT
    tab.select_option("#source", label="web")
    listed = sum(data["sources"][row[3]] == "web" for row in data["rows"])
    assert found(tab) == f"{listed} of {len(data['rows']):,} rows listed"
    shoot(tab, "100000")
