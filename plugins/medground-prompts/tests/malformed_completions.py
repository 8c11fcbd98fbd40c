"""Completions no model should write, and some will: seeded, endless, for tests and benchmarks of any parser."""

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


def mutation(rng: random.Random) -> str:
    """Return a good completion, cut, repeated or with scraps put in it."""
    text = good(rng)
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
    "quotes and escapes": lambda n: '<answer>{"' + "\\'" * (n // 2) + "}</answer>",
}
"""Strings of about n characters that make a careless reader take quadratic time, or worse."""
