"""Ask a server of the shipped recipe N times, 16 at once, on loopback: what is lost, and how long answers take.

    python benchmarks/serve_load.py [--requests 1000] [--at-once 16] [--overload 256]

The ideal of one worker: with k requests at once, each waits for k - 1 others, so an answer takes k times what a request alone
takes. Requests alone are measured before and after, in the same run, because the machine may be shared. The queue time is k
times the mean interval between answers. Every answer must be about the picture that was asked about.

Then: 100 requests about one image with an encoder, and 256 requests at once where 8 may wait.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "medground-serve" / "tests"))
from serving import Server  # noqa: E402

from medground.images.pictures import png_bytes  # noqa: E402

QUESTION = "Which bright spot is new?"


def picture(width: int) -> bytes:
    """Return a dark picture of 96 x `width` with a bright disc."""
    y, x = np.mgrid[:96, :width]
    return png_bytes(np.where(np.hypot(x - 80, y - 40) < 14, 210, 40).astype(np.uint8))


def load(requests: int, at_once: int) -> dict[str, float]:
    """Return the figures of many requests about two pictures in turn, one uploaded anew each time."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server("--waiting", str(at_once), folder=Path(folder)).wait_ready()
        stored = server.ground(picture(128), QUESTION)[1]["image"]

        def ask(number: int) -> tuple[int, bool, float]:
            begin = time.perf_counter()
            if number % 2:
                status, answer = server.ground(None, QUESTION, image=stored)
                right = answer.get("image") == stored and answer["mask"]["rle"]["size"] == [96, 128]
            else:
                width = 120 + number % 64
                status, answer = server.ground(picture(width), QUESTION)
                right = status == 200 and answer["mask"]["rle"]["size"] == [96, width]
            return status, right, time.perf_counter() - begin

        alone = [ask(number)[2] for number in range(100)]
        before = server.memory()
        begin = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(ask, range(requests)))
        seconds = time.perf_counter() - begin
        alone += [ask(number)[2] for number in range(100)]
        grown = server.memory() - before
        code = server.stop()
    p50, p95 = np.percentile([took for *_, took in answers], [50, 95])
    ideal = float(np.median(alone)) * at_once
    return {
        "requests": requests,
        "at_once": at_once,
        "lost": sum(status != 200 for status, *_ in answers),
        "wrong": sum(not right for _, right, _ in answers),
        "alone_s": round(ideal / at_once, 4),
        "ideal_s": round(ideal, 3),
        "p50_s": round(float(p50), 3),
        "p95_s": round(float(p95), 3),
        "p95_to_ideal": round(float(p95 / ideal), 2),
        "p95_to_queue_time": round(float(p95 * requests / seconds / at_once), 2),
        "p95_to_p50": round(float(p95 / p50), 2),
        "requests_per_s": round(requests / seconds, 1),
        "ideal_requests_per_s": round(at_once / ideal, 1),
        "server_grown_mb": round(grown, 1),
        "exit_code": code,
    }


def encodes(requests: int) -> dict[str, float]:
    """Return how many images are encoded for many requests about one, half of them questions, half corrections."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server("infer/toy", "segmenter=mini_sam", folder=Path(folder)).wait_ready()
        stored = server.upload(picture(128))[1]["image"]
        statuses = Counter[int]()
        for number in range(requests):
            box = [60, 20, 100, 50 + number % 20]
            correction = {"image": stored, "box": box, "masks": "none"}
            answer = server.post("/segment", correction) if number % 2 else server.ground(None, QUESTION, image=stored)
            statuses[answer[0]] += 1
        count = server.counter("medground_encodes_total")
        server.stop()
    return {"about_one_image": requests, "answered": statuses[200], "encodes": count}


def overload(at_once: int) -> dict[str, float]:
    """Return what becomes of many requests at once where few may wait, and how long the slowest took."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server("--waiting", "8", folder=Path(folder)).wait_ready()
        stored = server.ground(picture(128), QUESTION)[1]["image"]
        begin = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            statuses = Counter(pool.map(lambda _: server.ground(None, QUESTION, image=stored)[0], range(at_once)))
        seconds = time.perf_counter() - begin
        after = server.ground(None, QUESTION, image=stored)[0]
        server.stop()
    figures = {"overload": at_once, "answered": statuses[200], "refused_429": statuses[429]}
    return {
        **figures,
        "lost": at_once - statuses[200] - statuses[429],
        "seconds": round(seconds, 2),
        "status_after": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--overload", type=int, default=256)
    options = parser.parse_args()
    for figures in (load(options.requests, options.at_once), encodes(100), overload(options.overload)):
        print(json.dumps(figures, indent=2), flush=True)


if __name__ == "__main__":
    main()
