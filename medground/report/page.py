"""The page around the pieces."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from medground.report.html import Html, block, element, text

STATEMENT = "Research software, not a medical device. The output must be checked by a qualified person."


class Section:
    """A part of a page with a heading of its own.

    Args:
        title: the heading.
        bodies: pieces of `medground.report`; a plain string is a paragraph of text.
    """

    def __init__(self, title: str, *bodies: object) -> None:
        self.title, self.bodies = title, bodies


def page(title: str, sections: Sequence[Section], *, note: object = "", first: Sequence[str] = ()) -> str:
    """One HTML document that asks for nothing outside itself, and forbids the browser to.

    Args:
        title: its heading.
        sections: its parts, listed at the top.
        note: text below the title.
        first: what is read before all else, a sentence each, such as why every number is 0.
    """
    style, script = _file("page.css") + "\n" + _file("chart.css"), _file("page.js")
    names = [(f"section-{number}", section) for number, section in enumerate(sections, start=1)]
    links = [element("li", element("a", section.title, href=f"#{name}")) for name, section in names]
    parts = [
        element(
            "section",
            element("h2", section.title, id=f"{name}-title"),
            *(block(body) for body in section.bodies),
            id=name,
            aria_labelledby=f"{name}-title",
        )
        for name, section in names
    ]
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
    head = [
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}base-uri 'none'; form-action 'none'\">"),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<meta name="generator" content="medground">'),
        element("title", title),
        Html(f"<style>{style}</style>"),
    ]
    body = [
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("h1", title), *_first(first), *([block(note)] if note else [])),
        element("nav", element("ul", *links), aria_label="Contents") if len(links) > 1 else text(""),
        element("main", *parts, id="content", tabindex=-1),
        element("footer", element("p", STATEMENT)),
        Html(f"<script>{script}</script>"),
    ]
    return f'<!doctype html>\n<html lang="en">{element("head", *head)}\n{element("body", *body)}</html>\n'


def _first(sentences: Sequence[str]) -> list[Html]:
    return [element("ul", *(element("li", each) for each in sentences), class_="first")] if sentences else []


def _file(name: str) -> str:
    return resources.files("medground.report").joinpath(name).read_text(encoding="utf-8").strip()


def _hash(code: str) -> str:
    """What a policy names inline code by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
