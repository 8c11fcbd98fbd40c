"""Coloured phantoms: the back of an eye, and stained tissue under a microscope."""

import numpy as np

from medground_toy.canvas import Canvas, curve, paint, soft
from medground_toy.regions import Floats, smooth
from medground_toy.scenes import Shapes, Structure, common, lesion, region, union, without


def fundus(canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Structure]]:
    """A retina: optic disc and cup, vessels, macula, a pale crescent at the disc, a bleed and a yellow deposit."""
    between, p, x, y = canvas.between, canvas.pixel, canvas.x, canvas.y
    view = canvas.blob(0, 0, 0.96, 0.96)
    picture = np.zeros((*canvas.size, 3), np.float32)
    warm = np.float32(1) - 0.28 * np.hypot(x, y)[..., None] ** 2 + 0.035 * canvas.noise(4, 3)[..., None]
    ground = np.array([0.80, 0.40, 0.19], np.float32) * warm
    ground[..., 1] += 0.012 * canvas.noise(26, 2)
    streaks = np.clip(1 - 2.5 * np.abs(canvas.noise(7, 2)), 0, 1)
    ground *= (1 - 0.07 * streaks)[..., None]

    side = int(canvas.rng.choice([-1, 1]))
    dx, dy = side * between(0.4, 0.48), between(-0.08, 0.08)
    disc = canvas.blob(dx, dy, 0.145, 0.165, 0, canvas.wobble(0.02, (2, 3)))
    cup = canvas.blob(dx - side * 0.01, dy, 0.068, 0.08, 0, canvas.wobble(0.03, (2, 3)))
    fovea = (-side * between(0.1, 0.16), dy + 0.06)
    ground *= (1 - 0.3 * np.exp(-(((x - fovea[0]) ** 2 + (y - fovea[1]) ** 2) / 0.025)))[..., None]
    halo = canvas.blob(dx + side * between(-0.03, 0.02), dy + between(-0.03, 0.03), 0.23, 0.25, 0, canvas.wobble(0.04))
    eaten = canvas.blob(dx - side * 0.1, dy + between(-0.05, 0.05), 0.26, 0.3)
    pale = without(halo, disc, eaten)
    paint(ground, soft(pale, 3 * p) * 0.85, [0.93, 0.72, 0.47] * (1 + 0.05 * canvas.noise(30)[..., None]))
    paint(ground, soft(disc, 0.035), [0.97, 0.75, 0.42])
    paint(ground, soft(cup, 0.06), [1.0, 0.92, 0.70])

    bright = canvas.rng.random() < 0.5  # which of the two lesions lies above
    spots = [(-side * between(0.3, 0.5), -between(0.35, 0.5)), (-side * between(0.3, 0.5), between(0.35, 0.5))]
    deposit, heart = lesion(canvas, *spots[0 if bright else 1], between(0.13, 0.16), shapes)
    bleed, clot = lesion(canvas, *spots[1 if bright else 0], between(0.14, 0.17), shapes)
    mottle = canvas.noise(28)[..., None]
    paint(ground, soft(deposit, 3 * p) * 0.8, [0.93, 0.70, 0.33] + 0.04 * mottle)
    paint(ground, soft(heart, 3 * p), [1.0, 0.93, 0.66] + 0.03 * mottle)
    paint(ground, soft(bleed, 3 * p) * 0.85, [0.50, 0.12, 0.07] + 0.02 * mottle)
    paint(ground, soft(clot, 3 * p) * 0.9, [0.29, 0.04, 0.04] + 0.02 * mottle)

    veins, arteries = [], []
    for up in (-1, 1):
        for bundle, wide, spread in ((veins, 0.034, 0.0), (arteries, 0.024, 0.07)):
            start = (dx + between(-0.02, 0.02), dy + up * 0.02)
            arc = curve(
                start,
                (dx - side * 0.02, dy + up * (0.5 + spread)),
                (dx - side * 0.6, dy + up * (0.72 + spread)),
                (dx - side * 1.25, dy + up * (0.42 + 2 * spread)),
                steps=40,
            )
            bundle.append((arc, wide, wide * 0.3))
            for at in (8, 14, 20, 26, 31):
                bundle.append(_twig(canvas, arc[at], arc[at + 1] - arc[at], up * side, wide * 0.5))
            nasal = curve(start, (dx + side * 0.12, dy + up * 0.28), (dx + side * 0.32, dy + up * (0.4 + spread)))
            bundle.append((nasal, wide * 0.7, wide * 0.25))
    for bundle, colour, strength in ((arteries, [0.70, 0.22, 0.12], 0.75), (veins, [0.52, 0.11, 0.08], 0.85)):
        paint(ground, smooth(canvas.strokes(bundle), 1 if p < 0.01 else 0) * strength, colour)
        if colour[0] > 0.6:
            shine = [(points, start * 0.25, end * 0.25) for points, start, end in bundle]
            paint(ground, canvas.strokes(shine) * 0.35, [0.95, 0.55, 0.35])
    paint(picture, soft(view, 0.02), ground)
    picture += canvas.grain(0.012)[..., None] * (view > 0)[..., None]
    return picture, [
        region("optic disc", "eye structure", disc, tone="bright"),
        region("atrophy crescent", "abnormality", pale, tone="bright"),
        region("exudate", "abnormality", deposit, heart, "bright"),
        region("haemorrhage", "abnormality", bleed, clot, "dark"),
    ]


def _twig(canvas: Canvas, root: Floats, along: Floats, turn: int, width: float) -> tuple[Floats, float, float]:
    angle = np.arctan2(along[1], along[0]) + canvas.between(0.5, 1.0) * canvas.rng.choice([-1, 1])
    reach = canvas.between(0.2, 0.38)
    middle = root + reach * 0.5 * np.array([np.cos(angle), np.sin(angle)])
    bend = angle + canvas.between(-0.5, 0.5)
    end = middle + reach * 0.5 * np.array([np.cos(bend), np.sin(bend)])
    return curve(tuple(root), tuple(middle), tuple(end)), width, width * 0.35


def histology(canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Structure]]:
    """Stained tissue: fibrous stroma, two glands around white lumens, and two nests of crowded dark nuclei."""
    between, p = canvas.between, canvas.pixel
    warp = canvas.noise(3, 2)
    fibres = np.cos(18 * (canvas.x * between(-0.6, 0.6) + canvas.y) + 3.2 * warp + 0.8 * canvas.noise(12))
    pink = np.array([0.925, 0.72, 0.82], np.float32)
    picture = pink + np.array([0.03, 0.055, 0.035], np.float32) * fibres[..., None]
    picture += np.array([0.012, 0.02, 0.014], np.float32) * canvas.noise(22, 2)[..., None]
    cracks = np.clip(1 - 9 * np.abs(canvas.noise(5, 2) + 0.4 * fibres), 0, 1)
    paint(picture, smooth(cracks, 1) * 0.7, [0.975, 0.955, 0.965])

    places = [(-0.5, -0.48), (0.5, -0.48), (-0.5, 0.48), (0.5, 0.48)]
    diagonal = int(canvas.rng.integers(2))
    order = [0, 3, 1, 2] if diagonal else [1, 2, 0, 3]
    spots = [(places[i][0] + between(-0.06, 0.06), places[i][1] + between(-0.06, 0.06)) for i in order]
    radii = between(0.25, 0.29), between(0.21, 0.25)
    glands = [lesion(canvas, *spot, radius, shapes)[0] for spot, radius in zip(spots[:2], radii, strict=True)]
    nests = [lesion(canvas, *spot, between(0.23, 0.27), shapes) for spot in spots[2:]]
    solid = union(*glands, *(whole for whole, _ in nests))
    lumens = []
    for gland in glands:
        rough = gland + 0.008 * canvas.noise(26)
        lumens.append(rough - 0.085)
        paint(picture, soft(gland + 0.02, 0.02) * 0.6, [0.97, 0.86, 0.91])
        paint(picture, soft(gland, 3 * p), [0.80, 0.60, 0.80] + 0.03 * canvas.noise(30)[..., None])
        paint(picture, soft(rough - 0.08, 0.02), [0.965, 0.945, 0.965])
        paint(picture, soft(common(rough - 0.11, 0.3 * canvas.noise(9) - 0.12), 0.03) * 0.5, [0.90, 0.78, 0.88])
    for whole, core in nests:
        paint(picture, soft(whole, 3 * p), [0.74, 0.53, 0.76] + 0.03 * canvas.noise(30)[..., None])
        paint(picture, soft(core, 4 * p), [0.55, 0.36, 0.64] + 0.03 * canvas.noise(30)[..., None])

    ring = soft(common(union(*glands) - 0.016, -union(*lumens) - 0.012), 0.01)
    crowd = soft(union(*(whole for whole, _ in nests)) - 0.01, 0.01)
    layers = (
        (0.085, 0.026, 0.42 * (solid < -0.03), (0.48, 0.30, 0.60)),
        (0.052, 0.024, ring, (0.36, 0.20, 0.52)),
        (0.062, 0.026, crowd * 0.9, (0.33, 0.17, 0.48)),
    )
    for cell, radius, density, colour in layers:
        cover, shade = canvas.nuclei(cell, radius, np.asarray(density, np.float32))
        paint(picture, cover * 0.92, np.array(colour, np.float32) + 0.12 * (shade[..., None] - 0.5))
    for _, core in nests:
        cover, shade = canvas.nuclei(0.048, 0.027, soft(core, 0.01))
        paint(picture, cover * 0.92, np.array([0.22, 0.10, 0.38]) + 0.08 * shade[..., None])
    picture *= (1 + 0.02 * canvas.noise(2))[..., None]
    picture += canvas.grain(0.01)[..., None]
    regions = [region("gland", "tissue structure", gland) for gland in glands]
    regions += [region("tumour nest", "abnormality", whole, core, "dark") for whole, core in nests]
    return picture, regions
