"""By how much the axes of masks miss those of ellipses whose axes are known, by size, shape and direction.

    python benchmarks/volume_axes.py [--count 2000] [--seed 0]

An ellipse's half axes are drawn from 4 to 30 px (short) times 1 to 3 (long), its direction and the place of its centre within a
pixel at random; a pixel is in it if its centre is. The first table is of `medground.measures`, the second of the longest
distance between other points of the same masks.
"""

import argparse

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from medground.measures import RULE, measure_mask

POINTS = {
    "pixel centres": 0.0,
    "a quarter of a pixel beyond them": 0.25,
    RULE: 0.5,
}
"""Name -> how far beyond the centre of a pixel, towards its faces, a point lies."""


def ellipse(dice, direction=None):
    """Return a mask with its half axes and what was drawn."""
    short = dice.uniform(4, 30)
    long = short * dice.uniform(1, 3)
    angle = dice.uniform(0, np.pi) if direction is None else direction
    side = int(2 * long + 8)
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2 - dice.uniform(-0.5, 0.5, 2)[:, None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / long) ** 2 + (v / short) ** 2 <= 1, long, short


def longest(mask, beyond):
    """Return the longest distance between points that lie `beyond` the centres of pixels, towards their four faces."""
    y, x = np.nonzero(mask)
    points = np.concatenate(
        [np.stack([x + beyond * dx, y + beyond * dy], 1) for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    )
    return pdist(points[ConvexHull(points).vertices]).max()


def row(name, errors):
    """Return a line of the table: errors of the long and the short axis ``[n, 2]``, px."""
    half = 1.96 * errors.std(axis=0, ddof=1) / len(errors) ** 0.5
    words = [
        f"{mean:+.2f} ± {wide:.2f} | {low:+.2f} to {high:+.2f} | {share:.0%}"
        for mean, wide, low, high, share in zip(
            errors.mean(axis=0),
            half,
            errors.min(axis=0),
            errors.max(axis=0),
            (np.abs(errors) <= 0.5).mean(axis=0),
            strict=True,
        )
    ]
    both = (np.abs(errors) <= 0.5).all(axis=1).mean()
    return f"| {name} | {len(errors)} | {' | '.join(words)} | {both:.0%} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = np.random.default_rng(options.seed)
    errors, drawn, others = [], [], {name: [] for name in POINTS}
    for _ in range(options.count):
        mask, long, short = ellipse(dice)
        measures = measure_mask(mask)
        errors.append((measures.long_axis - 2 * long, measures.short_axis - 2 * short))
        drawn.append((short, long / short))
        for name, beyond in POINTS.items():
            others[name].append(longest(mask, beyond) - 2 * long)
    errors, (shorts, ratios) = np.array(errors), np.array(drawn).T
    print(f"{options.count} ellipses, seed {options.seed}; px, means with 95 % intervals; shares within half a pixel\n")
    print(
        "| ellipses | n | long | from, to | within | short | from, to | within | both |\n|---|---|---|---|---|---|---|---|---|"
    )
    print(row("all", errors))
    for low, high in ((4, 10), (10, 20), (20, 30)):
        print(row(f"short half axis {low} to {high} px", errors[(shorts >= low) & (shorts < high)]))
    for low, high in ((1, 1.1), (1.1, 1.5), (1.5, 3)):
        print(row(f"{low} to {high} times as long", errors[(ratios >= low) & (ratios < high)]))
    for degrees in (0, 45):
        straight = []
        for _ in range(options.count // 4):
            mask, long, short = ellipse(dice, np.radians(degrees))
            measures = measure_mask(mask)
            straight.append((measures.long_axis - 2 * long, measures.short_axis - 2 * short))
        print(row(f"long axis at {degrees} degrees", np.array(straight)))
    print("\n| long axis between | error | from, to | within |\n|---|---|---|---|")
    for name, values in others.items():
        values = np.array(values)
        spread = (
            f"{values.mean():+.2f} | {values.min():+.2f} to {values.max():+.2f} | {(np.abs(values) <= 0.5).mean():.0%}"
        )
        print(f"| {name} | {spread} |")


if __name__ == "__main__":
    main()
