"""Completions no model should write, and some will: seeded, endless, for tests and benchmarks of any parser."""

import json
import random
from collections.abc import Callable, Iterator, Mapping

THINKS = [
    "<think>a\nb</think>",
    "<think> </think>",
    "<think></think>",
    "<think>open",
    "",
    "<THINK>x</THINK>",
    "</think>",
]
NUMBERS = ["0", "7", "445", "-3", "12.5", "1e3", "1e999", "NaN", "-Infinity", "true", "null", '"9"', "[]", "9" * 25]
NUMBERS += ["841", "840.5", "-0.0", "0x1f", "1_000", "", "{}", "9" * 4400, "1e-400", "'8'"]
KEYS = ["bbox", "points_1", "points_2"]
SCRAPS = ["<think>", "</think>", "<answer>", "</answer>", "{", "}", "[", "]", '"', "'", ",", ":", "```", "```json\n"]
SCRAPS += ["NaN", "1e999", "\x00", "\ud800", "\u202e", "\\", "\\u0000", "\n", " ", "null", "-", "bbox", "\u2028", "🫁"]
ALPHABET = [*SCRAPS, *"abc01.eE+-/\t\r\x1c\x85\xa0\ufeff\uffff"]


def completions(seed: int) -> Iterator[str]:
    """Yield a third each of: a grammar of almost-answers, mutations of good ones, and unrelated characters."""
    rng = random.Random(seed)
    makers = (grammar, mutation, characters)
    while True:
        yield rng.choice(makers)(rng)


def grammar(rng: random.Random) -> str:
    """Return the blocks in any number and order, with an object whose keys, lengths and numbers are mostly right."""
    blocks = [rng.choice(THINKS) if rng.random() < 0.5 else THINKS[0], *(_answer(rng) for _ in range(_few(rng)))]
    if rng.random() < 0.1:
        rng.shuffle(blocks)
    if rng.random() < 0.1:
        blocks.insert(rng.randrange(len(blocks) + 1), rng.choice(["Sure! ", " \n", "```", "done"]))
    return rng.choice(["", "", "\n", " "]).join(blocks)


def mutation(rng: random.Random, text: str | None = None) -> str:
    """Return a good completion, or the one given, cut, repeated or with scraps put in it."""
    text = good(rng) if text is None else text
    for _ in range(rng.randint(1, 6)):
        begin, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, begin + 12)
        text = rng.choice(
            [
                text[:begin] + text[end:],
                text[:begin] + rng.choice(SCRAPS) + text[begin:],
                text[:begin] + rng.choice(SCRAPS) + text[end:],
                text[:end] + text[begin:],
                text[:begin] if rng.random() < 0.2 else text,
            ]
        )
    return text


def characters(rng: random.Random) -> str:
    """Return the scraps of the format and characters from all over Unicode, lone surrogates included."""
    return "".join(
        rng.choice(ALPHABET) if rng.random() < 0.8 else chr(rng.randrange(0x110000)) for _ in range(rng.randrange(80))
    )


def good(rng: random.Random) -> str:
    """Return a completion without fault in an image of 840 x 840."""
    x, y, width, height = (rng.randrange(1, 420) for _ in range(4))
    box = [x, y, x + width, y + height]
    text = f'{{"bbox": {box}, "points_1": [{x}, {y}], "points_2": [{x + 1}, {y}]}}'
    if rng.random() < 0.5:
        text = text.replace('"', "'")
    return f"<think>It is brighter.</think><answer>{text}</answer>"


def list_completions(seed: int) -> Iterator[str]:
    """Yield as `completions` does, for interfaces that read a list of regions."""
    rng = random.Random(seed)
    while True:
        yield rng.choice((list_grammar, list_mutation, characters))(rng)


def list_grammar(rng: random.Random) -> str:
    """Return the blocks in any number, with a list whose entries, keys and numbers are mostly right."""
    blocks = [rng.choice(THINKS) if rng.random() < 0.3 else THINKS[0], *(_list_answer(rng) for _ in range(_few(rng)))]
    return rng.choice(["", "", "\n", " "]).join(blocks)


def list_mutation(rng: random.Random) -> str:
    """Return a good list, cut, repeated or with scraps put in it."""
    return mutation(rng, good_list(rng))


def good_list(rng: random.Random) -> str:
    """Return a completion without fault in an image of 840 x 840, of no region or up to four."""
    entries = []
    for _ in range(rng.randrange(5)):
        x, y, width, height = (rng.randrange(1, 420) for _ in range(4))
        box, points = [x, y, x + width, y + height], [[x, y], [x + 1, y]]
        label = rng.choice(["lung", "Crohn's", 'a "b"', "]", "<box>", "é"])
        entries.append({"bbox": box, "points": points, "label": label, "confidence": rng.random()})
    text = repr(entries) if rng.random() < 0.4 else json.dumps(entries)
    return f"<think>It is brighter.</think><answer>{text}</answer>"


def _list_answer(rng: random.Random) -> str:
    entries = []
    for _ in range(rng.choices([0, 1, 2, 5, 70], [4, 8, 8, 4, 1])[0]):
        keys = ["bbox", "points", "label", "confidence"]
        if rng.random() < 0.1:
            keys = rng.choices([*keys, "extra", "BBOX"], k=rng.randint(0, 5))
        values = {
            "bbox": _numbers(rng, 4),
            "points": "["
            + ", ".join(_numbers(rng, 2) for _ in range(2 if rng.random() < 0.9 else rng.randrange(20)))
            + "]",
            "label": rng.choice(['"lung"', '"it\'s"', "'a \"b\"'", "3", "null"]),
            "confidence": rng.choice(["0.5", "1", "0", "2", "-1", "NaN", '"high"', "true"])
            if rng.random() < 0.3
            else "0.9",
        }
        entries.append("{" + ", ".join(f'"{key}": {values.get(key, "[]")}' for key in keys) + "}")
    text = "[" + ", ".join(entries if rng.random() < 0.95 else [*entries, rng.choice(["7", "[]", "null", "{}"])]) + "]"
    if rng.random() < 0.3:
        text = text.replace('"', "'")
    text = rng.choices(
        [text, f"```json\n{text}\n```", f" {text}\n", text[1:-1], text[:-2], text * 2], [20, 2, 2, 1, 1, 1]
    )[0]
    return f"<answer>{text}</answer>" if rng.random() < 0.95 else f"<answer>{text}"


def _few(rng: random.Random) -> int:
    return rng.choices([0, 1, 2], [1, 12, 1])[0]


def _answer(rng: random.Random) -> str:
    keys = list(KEYS)
    if rng.random() < 0.15:
        keys = rng.choices([*KEYS, "extra", "BBOX"], k=rng.randint(0, 5))
    point = _numbers(rng, 2)
    pairs = ", ".join(
        f'"{key}": {_numbers(rng, 4) if key == "bbox" else point if rng.random() < 0.1 else _numbers(rng, 2)}'
        for key in keys
    )
    text = "{" + pairs + "}"
    if rng.random() < 0.5:
        text = text.replace('"', "'")
    text = rng.choices(
        [text, f"```json\n{text}\n```", f" {text}\n", f"[{text}]", text[:-2], text * 2], [20, 2, 2, 1, 1, 1]
    )[0]
    closing = "</answer>" if rng.random() < 0.95 else ""
    return f"<answer>{text}{closing}" if rng.random() < 0.97 else text


def _numbers(rng: random.Random, count: int) -> str:
    if rng.random() < 0.05:
        count += rng.choice([-1, 1])
    drawn = sorted(rng.randrange(-1, 842) for _ in range(count))
    if rng.random() < 0.05:
        drawn = rng.choices(drawn[:2], k=count)  # boxes without width, or inside out
    words = [rng.choice(NUMBERS) if rng.random() < 0.03 else str(number) for number in drawn]
    return "[" + ", ".join(words) + "]"


ATTACKS: Mapping[str, Callable[[int], str]] = {
    "think tags": lambda n: "<think>" * (n // 7),
    "answer tags": lambda n: "<answer>" * (n // 8),
    "closing tags": lambda n: "<think><answer>{" + "}</think></answer" * (n // 17),
    "alternating blocks": lambda n: "<think></think><answer>{}</answer>" * (n // 34),
    "spaces before the answer": lambda n: "<think></think>" + " " * n + "<answer",
    "braces and spaces": lambda n: "<answer>{" + "}  \n" * (n // 4),
    "empty braces": lambda n: "{}" * (n // 2) + "{",
    "deep nesting": lambda n: "<answer>" + '{"a":[' * (n // 6) + "</answer>",
    "one long number": lambda n: '<answer>{"bbox": [' + "9" * n + ", 1, 2, 3]}</answer>",
    "one long fraction": lambda n: '<answer>{"bbox": [0.' + "3" * n + ", 1, 2, 3]}</answer>",
    "many keys": lambda n: "<answer>{" + ", ".join(f"'k{i}': {i}" for i in range(n // 16)) + "}</answer>",
    "escaped quotes": lambda n: "<answer>['" + '"\\' * (n // 2) + "]</answer>",
    "quotes and escapes": lambda n: '<answer>{"' + "\\'" * (n // 2) + "}</answer>",
}
"""Strings of about n characters that make a careless reader take quadratic time, or worse."""
