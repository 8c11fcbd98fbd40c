"""A report needs nothing beside itself, shows text as text, and says in words what it draws."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from medground.report import STATEMENT, Table, page, panels, render
from medground.report.charts import bars, line_chart, scatter
from medground.report.page import LONG

HOSTILE = '<script>alert("x")</script><img src="https://example.org/x.png" onerror=alert(1)>'
VOID = {"meta", "img", "br", "hr", "input", "link"}
SVG = "{http://www.w3.org/2000/svg}"


class Parser(HTMLParser):
    """Every element with its attributes; fails where tags do not nest."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else None, data))


def parsed(text):
    parser = Parser()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def picture(side=64):
    return Image.fromarray(np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3))


TEMPLATE = """
{% extends "page.html" %}
{% from "parts.html" import figure, folded, section, table with context %}
{% block note %}{{ text }}{% endblock %}
{% block content %}
{% call section(text) %}<div class="grid">
{{ line_chart(text, {text: ([1, 2, 3], [0.1, none, 0.3]), "b": ([1], [1])}, x=text, y=text) }}
{{ scatter(text, {text: ([1, 2], [1, 2])}, x=text, y=text, diagonal=true) }}
{{ bars(text, {text: {text: 0.5}, "b": {text: 1.0}}, intervals={text: {text: (0.4, 0.6)}}) }}</div>
{% endcall %}
{% call section("Table") %}{{ table(*cells) }}<p>{{ text }}</p>{% endcall %}
{% call section("Pictures") %}
{% call figure(image, text) %}{{ text }}{% endcall %}{% call folded(text) %}<pre>{{ text }}</pre>{% endcall %}
{% endcall %}
{% endblock %}
"""


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a page of all parts around a text."""

    def write_page(text="A run", columns=("name", "n"), rows=(("a", 1.0), ("b", None)), **options):
        (tmp_path / "all.html").write_text(TEMPLATE)
        cells = Table(columns, rows, "counts", **options)
        return render("all.html", folder=tmp_path, title=text, causes=[text], text=text, cells=cells, image=picture())

    return write_page


def test_a_page_is_well_formed_and_has_landmarks(write):
    parser = parsed(write())
    tags = [tag for tag, _ in parser.elements]
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert tags.count(landmark) == 1
    assert dict(parser.elements[tags.index("html")][1])["lang"] == "en"
    ids = [attributes["id"] for _, attributes in parser.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in parser.elements if tag == "a"]
    assert all(link.removeprefix("#") in ids for link in links)
    assert links[0] == "#content"
    assert all(attributes["alt"] for tag, attributes in parser.elements if tag == "img")
    assert STATEMENT in [text for _, text in parser.texts]


def test_a_page_loads_nothing_from_outside_itself_and_forbids_the_browser_to(write):
    text = write()
    parser = parsed(text)
    for tag, attributes in parser.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, name)
        assert "style" not in attributes, "the policy would not apply it"
    assert "url(" not in text
    assert "@import" not in text
    (policy,) = [
        attributes["content"]
        for _, attributes in parser.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (code,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_what_a_model_wrote_is_shown_and_never_run(write):
    parser = parsed(write(HOSTILE, [HOSTILE], [[HOSTILE], [HOSTILE]]))
    tags = [tag for tag, _ in parser.elements]
    assert tags.count("script") == 1
    assert all(attributes.get("src", "data:").startswith("data:") for tag, attributes in parser.elements)
    assert not any("onerror" in attributes for _, attributes in parser.elements)
    shown = {tag for tag, text in parser.texts if HOSTILE in text}
    assert {"title", "h1", "h2", "p", "a", "li", "td", "button", "summary", "pre", "figcaption", "desc"} <= shown


def test_a_table_sorts_by_buttons_and_scrolls_in_its_own_box(write):
    parser = parsed(write())
    headings = [attributes for tag, attributes in parser.elements if tag == "th"]
    assert len(headings) == 2
    assert all(heading["aria-sort"] == "none" and heading["scope"] == "col" for heading in headings)
    assert [tag for tag, _ in parser.elements].count("button") == 2
    assert ("div", {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": "counts"}) in parser.elements
    assert {"class": "number", "data-value": "1.0"} in [attributes for _, attributes in parser.elements]
    assert ("td", "–") in parser.texts
    assert "button" not in [tag for tag, _ in parsed(write(sortable=False)).elements]
    with pytest.raises(ValueError, match="2 cells does not fit 1 columns"):
        write(columns=["one"], rows=[[1, 2]])


def test_a_column_that_says_the_same_in_every_row_becomes_a_line(write):
    columns, rows = ["who", "n", "mean", "floor"], [["a", 58, 0.1, 0.2], ["b", 58, 0.3, 0.2]]
    page = parsed(write(columns=columns, rows=rows, always=["floor"]))
    assert [text for tag, text in page.texts if tag == "button"] == ["who", "mean", "floor"]
    assert ("p", "In every row: n 58.") in page.texts
    assert "In every row" not in write(columns=columns, rows=rows[:1]), "of one row every column says the same"
    assert "In every row" not in write(columns=["what", "value"], rows=[["a", 1], ["b", 1]])


@pytest.mark.parametrize(("count", "folded"), [(LONG, False), (LONG + 1, True)])
def test_a_long_table_is_folded_under_its_caption_and_its_number_of_rows(write, count, folded):
    page = parsed(write(rows=[[str(index), index] for index in range(count)]))
    assert (("summary", f"counts: {count} rows") in page.texts) is folded
    assert ("caption", "counts") in page.texts or folded


def test_every_text_of_a_page_has_one_of_four_sizes():
    style = (page.TEMPLATES / "page.css").read_text()
    sizes = re.findall(r"font(?:-size)?: ([^;/]+)[;/]", style)
    assert {size.strip() for size in sizes} == {f"var(--{name})" for name in ("small", "normal", "large", "largest")}


def test_the_legend_names_what_is_drawn_in_its_colour():
    text = page.legend(("truth", "box"))
    assert re.findall("</svg>([^<]*)</li>", text) == ["truth", "box"]
    assert "#ffdd40" in text.split("</li>")[0] and "#46c3ff" in text.split("</li>")[1]


def test_a_column_of_truth_values_is_no_column_of_numbers(write):
    cells = [attributes for tag, attributes in parsed(write(rows=[["a", True], ["b", 2]])).elements if tag == "td"]
    assert cells == [{}] * 4


def drawing(piece):
    return ElementTree.fromstring(re.search(r"<svg xmlns.*?</svg>", piece, re.DOTALL)[0])


def test_a_curve_breaks_where_a_value_is_missing_and_is_described_in_words():
    lines = {"box": ([1, 2, 3, 4, 5], [0.1, 0.2, None, 0.4, float("inf")]), "none": ([], [])}
    svg = drawing(line_chart("reward", lines, holds=(0, 1)))
    assert svg.find(f"{SVG}title").text == "reward"
    assert "box: 3 values, first 0.1, last 0.4, lowest 0.1, highest 0.4; none: no values" in svg.find(f"{SVG}desc").text
    pieces = [line.get("points").split() for line in svg.iter(f"{SVG}polyline")]
    assert [len(points) for points in pieces] == [2, 1]
    heights = [float(point.split(",")[1]) for points in pieces for point in points]
    assert heights == sorted(heights, reverse=True), "more is higher"


def test_series_differ_without_colour():
    lines = {str(index): ([1, 2], [index, index]) for index in range(8)}
    svg = drawing(line_chart("many", lines))
    dashes = [line.get("stroke-dasharray") for line in svg.iter(f"{SVG}polyline")]
    assert len(set(dashes)) == 8


def test_bars_are_as_long_as_their_values_and_written_out():
    series = {"before": {"ct": 0.25, "mr": None}, "after": {"ct": 0.5}}
    svg = drawing(bars("dice", series, intervals={"after": {"ct": (0.45, 0.6)}}))
    widths = [float(bar.get("width")) for bar in svg.iter(f"{SVG}rect")]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    labels = [text.text for text in svg.iter(f"{SVG}text")]
    assert labels[-8:] == ["ct", "before", "0.250", "after", "0.500 [0.450, 0.600]", "mr", "before", "–"]
    long = drawing(bars("dice", {"dice": {"a" * 40: 0.5}}))
    assert "a" * 25 + "…" in [text.text for text in long.iter(f"{SVG}text")]
    assert "a" * 40 in long.find(f"{SVG}desc").text


@pytest.mark.parametrize("ys", [[0.0, 0.0], [5.0, 5.0], [-1e9, 1e9], [1e-12, 3e-12], []])
def test_any_range_can_be_drawn(ys):
    svg = drawing(line_chart("any", {"a": (range(len(ys)), ys)}))
    numbers = [float(value) for text in svg.iter() for name in ("x", "y") if (value := text.get(name))]
    assert np.isfinite(numbers).all()
    assert drawing(scatter("any", {"a": (ys, ys)}, x="", y="")).find(f"{SVG}title").text == "any"


def test_panels_are_an_svg_document():
    text = panels("pay", {"shift": {"total": ([0, 1], [1, 0])}, "scale": {"total": ([0, 1], [1, 0.5])}})
    svg = ElementTree.fromstring(text)
    assert len(list(svg.iter(f"{SVG}polyline"))) == 2
    assert "prefers-color-scheme" in text


def test_a_picture_is_bounded():
    small, large = page.picture(picture(600), "x"), page.picture(picture(600), "x", side=2000)
    assert 'width="480"' in small
    assert 'width="600"' in large
