"""Ask a server of the shipped recipe N times, 16 at once, on loopback: what is lost, and how long answers take.

    python benchmarks/serve_load.py [--requests 1000] [--at-once 16]

The ideal of one worker: with k requests at once, each waits for k - 1 others, so an answer takes k times what a request alone
takes. Both are measured in the same run.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "medground-serve" / "tests"))
from serving import Server  # noqa: E402

from medground.images.pictures import png_bytes  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    y, x = np.mgrid[:96, :128]
    picture = png_bytes(np.where(np.hypot(x - 80, y - 40) < 14, 210, 40).astype(np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        server = Server("--waiting", str(options.at_once), folder=Path(folder)).wait_ready()
        image = server.ground(picture, "Which bright spot is new?")[1]["image"]

        def ask(_: int) -> tuple[int, float]:
            begin = time.perf_counter()
            status, _answer = server.ground(None, "Which bright spot is new?", image=image, masks="none")
            return status, time.perf_counter() - begin

        alone = np.median([ask(index)[1] for index in range(50)])
        begin = time.perf_counter()
        with ThreadPoolExecutor(options.at_once) as pool:
            answers = list(pool.map(ask, range(options.requests)))
        seconds = time.perf_counter() - begin
        server.stop()
    p50, p95 = np.percentile([took for _, took in answers], [50, 95])
    ideal = alone * options.at_once
    figures = {
        "requests": options.requests,
        "at_once": options.at_once,
        "lost": sum(status != 200 for status, _ in answers),
        "alone_s": round(float(alone), 4),
        "ideal_s": round(float(ideal), 3),
        "p50_s": round(float(p50), 3),
        "p95_s": round(float(p95), 3),
        "p95_to_ideal": round(float(p95 / ideal), 2),
        "p95_to_p50": round(float(p95 / p50), 2),
        "requests_per_s": round(options.requests / seconds, 1),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
