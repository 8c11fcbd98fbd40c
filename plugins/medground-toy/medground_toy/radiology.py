"""Grey phantoms: a CT slice of the abdomen, an MR slice of the head, a chest X-ray, an ultrasound sector.

Anatomy is a caricature: enough of it that position, symmetry and tone mean something. Screen left is patient right.
"""

import numpy as np

from medground_toy.canvas import Canvas, curve, paint, soft
from medground_toy.regions import Floats, smooth
from medground_toy.scenes import Shapes, Structure, common, lesion, region, union, without


def ct(canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Structure]]:
    """An abdominal slice: liver, spleen, two kidneys, spine, stomach, and a lesion on either side."""
    between, p = canvas.between, canvas.pixel
    body = canvas.blob(0, 0.03, 0.93, 0.74, 0, canvas.wobble(0.02, (2, 3, 4)))
    cavity = body - 0.13
    picture = canvas.grain(0.012) + 0.02
    paint(picture, soft(canvas.blob(0, 1.55, 1.5, 0.75) + 0.004, 2 * p) * 0.35, 0.22)
    paint(picture, soft(body, 2 * p), 0.24 + 0.012 * canvas.noise(6, 2))
    paint(picture, soft(common(body - 0.075, -cavity + 0.012), 2 * p), 0.47 + 0.02 * canvas.noise(18))
    paint(picture, soft(body - 0.115, 2 * p), 0.27 + 0.015 * canvas.noise(7, 2))
    for angle in np.linspace(0.15, 2 * np.pi + 0.15, 13)[:-1] + between(-0.08, 0.08):
        if abs(np.sin(angle) - 1) > 0.25 and abs(np.sin(angle) + 1) > 0.15:
            rx, ry = 0.835 * np.cos(angle), 0.645 * np.sin(angle) + 0.03
            rib = canvas.blob(rx, ry, 0.055, 0.02, np.arctan2(0.645 * np.cos(angle), -0.835 * np.sin(angle)))
            paint(picture, soft(rib, 2 * p), 0.92)
            paint(picture, soft(rib - 0.009, 2 * p), 0.7)

    tilt = between(-0.03, 0.03)
    kidneys = []
    for side in (-1, 1):
        x, y = side * (0.37 + between(-0.02, 0.02)), 0.31 + side * 0.025 + between(-0.03, 0.03)
        bean = canvas.blob(x, y, 0.125, 0.2, -side * between(0.3, 0.5), canvas.wobble(0.03, (2, 3)))
        hilum = canvas.blob(x - side * 0.115, y - 0.01, 0.115, 0.085)
        kidneys.append((bean, hilum, without(bean, hilum)))
    lobe = canvas.blob(-0.47 + tilt, -0.06, 0.36, 0.5, 0.2, canvas.wobble(0.05, (2, 3)))
    left_lobe = canvas.blob(-0.1 + tilt, -0.3, 0.36, 0.14, 0.18 + tilt)
    liver = without(common(union(lobe, left_lobe), cavity - 0.012), kidneys[0][0] + 0.03, canvas.blob(0, 0.3, 0.2, 0.3))
    stomach = common(canvas.blob(0.27, -0.24, 0.23, 0.2, -0.5, canvas.wobble(0.04)), cavity - 0.02)
    stomach = without(stomach, liver + 0.02)
    spleen = common(canvas.blob(0.62, 0.02, 0.19, 0.38, -0.22, canvas.wobble(0.03)), cavity - 0.012)
    spleen = without(spleen, canvas.blob(0.44, -0.06, 0.2, 0.3, -0.15), kidneys[1][0] + 0.03, stomach + 0.02)

    texture = 0.012 * canvas.noise(40)
    for x, y, r in ((0.1, 0.08, 0.1), (-0.05, 0.16, 0.085), (0.24, 0.1, 0.08), (0.0, 0.0, 0.07), (0.17, -0.02, 0.06)):
        loop = without(canvas.blob(x, y, r, r * 0.8, between(0, 3), canvas.wobble(0.06)), liver + 0.02, stomach + 0.02)
        paint(picture, soft(loop, 2 * p), 0.5)
        paint(picture, soft(loop - 0.025, 3 * p), between(0.33, 0.44))
    paint(picture, soft(liver, 2 * p), 0.565 + texture + 0.008 * canvas.noise(5))
    paint(picture, _vessels(canvas, liver, (-0.22, 0.02), 0.028) * 0.5, 0.68)
    paint(picture, soft(stomach, 2 * p), 0.52)
    paint(picture, soft(stomach - 0.022, 2 * p), 0.38 + texture)
    paint(picture, soft(common(stomach - 0.022, -0.26 - canvas.y), 2 * p), 0.03)
    paint(picture, soft(spleen, 2 * p), 0.615 + texture)
    for bean, hilum, kidney in kidneys:
        paint(picture, soft(common(bean, hilum), 3 * p), 0.3)
        paint(picture, soft(kidney, 2 * p), 0.76 + texture)
        paint(picture, soft(common(kidney - 0.04, -0.02 - without(hilum * 0, -hilum)), 5 * p) * 0.55, 0.6)
    _spine(canvas, picture)
    for x, y, r, value in ((0.05, 0.23, 0.055, 0.78), (-0.1, 0.24, 0.05, 0.66)):
        paint(picture, soft(canvas.blob(x, y, r, r * 0.92), 2 * p), value)

    regions = [
        region("liver", "digestive organ", liver),
        region("spleen", "lymphatic organ", spleen),
        region("kidney", "urinary organ", kidneys[0][2], tone="bright"),
        region("kidney", "urinary organ", kidneys[1][2], tone="bright"),
    ]
    spots = (
        (-0.52 + between(-0.06, 0.06), -0.08 + between(-0.14, 0.14)),
        (0.5 + between(-0.05, 0.05), between(-0.2, 0.05)),
    )
    # A loop of bowel behind the right-hand lesion, so that a dark one shows there as it does in the liver.
    paint(picture, soft(canvas.blob(*spots[1], 0.2, 0.18, between(0, 3), canvas.wobble(0.05)), 3 * p), 0.54 + texture)
    for x, y in spots:
        dark = canvas.rng.random() < 0.5
        whole, core = lesion(canvas, x, y, between(0.105, 0.135), shapes)
        paint(picture, soft(whole, 2 * p), (0.42 if dark else 0.72) + texture)
        paint(picture, soft(core, 2 * p), (0.26 if dark else 0.93) + texture)
        regions.append(region("tumour", "abnormality", whole, core, "dark" if dark else "bright"))
    return smooth_grain(canvas, picture, 0.022), regions


def _spine(canvas: Canvas, picture: Floats) -> None:
    p = canvas.pixel
    for side in (-1, 1):
        muscle = canvas.blob(side * 0.2, 0.55, 0.15, 0.11, side * 0.25, canvas.wobble(0.03))
        paint(picture, soft(muscle, 2 * p), 0.48 + 0.02 * canvas.noise(22))
        psoas = canvas.blob(side * 0.19, 0.36, 0.075, 0.1, side * 0.3)
        paint(picture, soft(psoas, 2 * p), 0.47)
        process = canvas.blob(side * 0.16, 0.49, 0.1, 0.022, side * 0.25)
        paint(picture, soft(process, 2 * p), 0.88)
    vertebra = canvas.blob(0, 0.385, 0.125, 0.1, 0, canvas.wobble(0.02))
    arch = canvas.blob(0, 0.5, 0.1, 0.085)
    thorn = canvas.blob(0, 0.6, 0.025, 0.085)
    paint(picture, soft(union(arch, thorn), 2 * p), 0.93)
    paint(picture, soft(vertebra, 2 * p), 0.97)
    paint(picture, soft(vertebra - 0.018, 2 * p), 0.76 + 0.05 * canvas.noise(34))
    paint(picture, soft(canvas.blob(0, 0.5, 0.06, 0.05), 2 * p), 0.45)


def _vessels(canvas: Canvas, inside: Floats, root: tuple[float, float], width: float) -> Floats:
    strokes = []
    for _ in range(6):
        angle, reach = canvas.between(0, 2 * np.pi), canvas.between(0.25, 0.45)
        bend = angle + canvas.between(-0.6, 0.6)
        end = (root[0] + reach * np.cos(bend), root[1] + reach * np.sin(bend))
        middle = (root[0] + reach * 0.5 * np.cos(angle), root[1] + reach * 0.5 * np.sin(angle))
        strokes.append((curve(root, middle, end), width, width * 0.25))
    return canvas.strokes(strokes) * soft(inside - 0.03, 0.03)


def mri(canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Structure]]:
    """An axial head slice after contrast: folded cortex, ventricles, and a lesion in each hemisphere."""
    between, p = canvas.between, canvas.pixel
    head = canvas.blob(0, 0, 0.78, 0.94, 0, canvas.wobble(0.012, (2, 3, 4)))
    brain = head - 0.125
    picture = canvas.grain(0.01) + 0.015
    paint(picture, soft(head, 2 * p), 0.72 + 0.05 * canvas.noise(14))
    paint(picture, soft(head - 0.05, 2 * p), 0.09)
    paint(picture, soft(head - 0.066, 2 * p), 0.3 + 0.03 * canvas.noise(20))
    paint(picture, soft(head - 0.094, 2 * p), 0.08)
    theta = np.arctan2(canvas.y, canvas.x) + 0.12 * canvas.noise(5, 2)
    wave = np.cos(between(20, 24) * theta + 3 * canvas.noise(4)) + 0.6 * np.cos(between(33, 40) * theta)
    cortex = brain - 0.075 - 0.035 * wave - 0.012 * canvas.noise(16)
    paint(picture, soft(brain, 2 * p), 0.42 + 0.015 * canvas.noise(30))
    paint(picture, soft(cortex, 0.02), 0.61 + 0.015 * canvas.noise(30) + 0.01 * canvas.noise(4))
    sulci = common(0.42 * (wave - 1.02), brain + 0.01, 0.16 - brain)
    paint(picture, soft(sulci, 0.05), 0.14)
    island = common(cortex - 0.1, 0.22 - brain, 0.012 - np.abs(0.02 * canvas.noise(7)))
    paint(picture, soft(island, 0.02) * 0.8, 0.42)
    fissure = 0.009 - np.abs(canvas.x - 0.012 * np.sin(6 * canvas.y))
    paint(picture, soft(common(fissure, brain, np.abs(canvas.y + 0.02) - 0.3), 3 * p), 0.12)
    paint(picture, soft(common(0.03 - np.abs(canvas.x), 0.02 - np.abs(canvas.y + 0.16)), 0.03), 0.66)
    regions = []
    widen, shift = between(0.9, 1.2), between(-0.03, 0.03)
    for side in (-1, 1):
        for x, y, rx, ry, turn in ((0.2, 0.1, 0.1, 0.14, 0.4), (0.14, -0.13, 0.05, 0.11, -0.35)):
            paint(picture, soft(canvas.blob(side * x, y + shift, rx, ry, -side * turn), 0.03), 0.47)
        front = canvas.blob(side * 0.105, -0.12 + shift, 0.065 * widen, 0.22, -side * 0.3)
        back = canvas.blob(side * 0.15, 0.17 + shift, 0.07 * widen, 0.27, -side * 0.4)
        notch = canvas.blob(side * 0.255, 0.01 + shift, 0.15, 0.17, 0)
        horn = common(without(union(front, back), notch), side * canvas.x - 0.018)
        paint(picture, soft(horn, 2 * p), 0.1)
        plexus = canvas.blob(side * 0.2, 0.26 + shift, 0.018, 0.07, side * 0.42)
        paint(picture, soft(plexus, 3 * p) * 0.8, 0.6)
        regions.append(region("ventricle", "brain structure", horn, tone="dark"))
    paint(picture, soft(canvas.blob(0, 0.1 + shift, 0.014, 0.1), 3 * p), 0.12)
    high = canvas.rng.permutation([between(-0.5, -0.28), between(0.25, 0.5)])
    for side, y in zip((-1, 1), high, strict=True):
        whole, core = lesion(canvas, side * between(0.34, 0.4), float(y), between(0.11, 0.145), shapes)
        whole, core = common(whole, brain - 0.02), common(core, brain - 0.04)
        bright = canvas.rng.random() < 0.6
        paint(picture, soft(whole, 3 * p), 0.3 if bright else 0.82)
        paint(picture, soft(core, 2 * p), (0.93 if bright else 0.16) + 0.03 * canvas.noise(30))
        regions.append(region("tumour", "abnormality", whole, core, "bright" if bright else "dark"))
    bias = 1 + between(-0.08, 0.08) * canvas.x + between(-0.08, 0.08) * canvas.y
    return smooth_grain(canvas, picture * bias, 0.016), regions


def xray(canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Structure]]:
    """A frontal chest film: two lungs behind ribs, the heart, and an opacity in each lung."""
    between, x, y = canvas.between, canvas.x, canvas.y
    trunk = union(canvas.blob(0, 0.5, 0.92, 1.35), canvas.blob(0, -0.55, 1.05, 0.3) - 0.02)
    picture = np.full(canvas.size, 0.03, np.float32)
    paint(picture, soft(trunk, 0.1), 0.5 + 0.03 * canvas.noise(3, 2))
    paint(picture, soft(canvas.blob(0, -0.98, 0.27, 0.4), 0.12), 0.5)
    tip = between(-0.03, 0.03)
    heart = union(canvas.blob(0.17, 0.36, 0.35, 0.24, 0.62, canvas.wobble(0.02)), canvas.blob(-0.06, 0.3, 0.15, 0.26))
    arch = union(canvas.blob(0.08, -0.1, 0.12, 0.3), canvas.blob(0.12, -0.26, 0.075, 0.075))
    column = canvas.blob(0, 0, 0.13, 1.3)
    lungs = []
    for side in (-1, 1):
        dome = canvas.blob(side * 0.42, 1.12 + 0.04 * (side > 0) + tip, 0.5, 0.5)
        shape = canvas.blob(side * 0.43, 0.1 + tip, 0.36, 0.86, side * 0.12, canvas.wobble(0.02, (2, 3)))
        lungs.append(without(shape, dome, heart, arch, column))
    ribs, edges = [], []
    for side in (-1, 1):
        for k in range(9):
            top = -0.74 + 0.165 * k + tip
            wide = 0.62 + 0.2 * np.sin(np.pi * (k + 1.5) / 11)
            path = curve(
                (side * 0.1, top), (side * wide * 0.6, top - 0.1), (side * wide, top + 0.1), (side * wide, top + 0.24)
            )
            ribs.append((path, 0.062, 0.05))
            edges += [(path + np.array([0, lift]), 0.008, 0.008) for lift in (-0.028, 0.028)]
            front = curve((side * wide, top + 0.22), (side * wide * 0.85, top + 0.42), (side * 0.3, top + 0.46))
            ribs.append((front, 0.03, 0.045))
    for lung in lungs:
        paint(picture, soft(lung, 0.035), 0.17 + 0.02 * canvas.noise(8, 2) + 0.12 * np.clip(y - 0.2, 0, 1))
    marks = []
    for side in (-1, 1):
        for _ in range(16):
            angle, reach = between(-1.3, 1.4), between(0.2, 0.5)
            root = (side * 0.16, 0.02 + tip)
            bend = (root[0] + side * reach * 0.5 * np.cos(angle), root[1] + reach * 0.5 * np.sin(angle) + 0.05)
            end = (root[0] + side * reach * np.cos(angle), root[1] + reach * 1.2 * np.sin(angle) + 0.08)
            marks.append((curve(root, bend, end), 0.03, 0.004))
    air = soft(union(*lungs), 0.05)
    picture += smooth(canvas.strokes(marks), 1) * 0.13 * air
    for side in (-1, 1):
        picture += soft(canvas.blob(side * 0.17, 0.03 + tip, 0.07, 0.13, -side * 0.3), 0.1) * 0.14
    picture += soft(arch, 0.06) * np.float32(0.14)
    paint(picture, soft(heart, 0.05), 0.66 + 0.01 * canvas.noise(5))
    picture += soft(column, 0.08) * np.float32(0.12) + soft(canvas.blob(0, 0, 0.07, 1.4), 0.04) * np.float32(0.06)
    for k in range(12):
        picture -= soft(canvas.blob(0, -0.92 + 0.16 * k, 0.075, 0.012), 0.02) * np.float32(0.05)
    paint(picture, soft(canvas.blob(0.0, -0.75, 0.045, 0.42), 0.03) * 0.5, 0.25)
    cage = soft(trunk, 0.2)
    picture += (smooth(canvas.strokes(ribs), 1) * 0.085 + canvas.strokes(edges) * 0.05) * cage
    bars = []
    for side in (-1, 1):
        lift = between(-0.03, 0.03)
        knots = [(0.1, -0.6 + lift), (0.32, -0.76 + lift), (0.6, -0.68 + lift), (0.88, -0.86 + lift)]
        bars.append(canvas.strokes([(curve(*((side * a, b) for a, b in knots)), 0.085, 0.065)]))
        picture += smooth(bars[-1], 1) * 0.14 - smooth(np.maximum(bars[-1] - 0.6, 0), 2) * 0.1
    regions = [region("lung", "thoracic organ", lung, tone="dark") for lung in lungs]
    regions.append(region("heart", "thoracic organ", heart, tone="bright"))
    regions += [region("clavicle", "bone", bar - 0.5, tone="bright") for bar in bars]
    for side, lung in zip((-1, 1), lungs, strict=True):
        height = between(-0.5, 0.4) if side < 0 else between(-0.5, 0.0)
        whole, core = lesion(canvas, side * between(0.4, 0.5), height, between(0.12, 0.15), shapes)
        whole, core = common(whole, lung), common(core, lung)
        fluff = 1 + 0.12 * canvas.noise(18)
        picture += soft(whole, 0.03) * 0.2 * fluff + soft(core, 0.03) * 0.22 * fluff
        regions.append(region("opacity", "abnormality", whole, core, "bright"))
    picture = np.clip(picture * (1 - 0.12 * np.hypot(x, y)), 0, 1) ** np.float32(0.9)
    return smooth_grain(canvas, picture, 0.012), regions


def ultrasound(canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Structure]]:
    """A sector of layered tissue in speckle: a shadowing solid mass and a black cyst, side by side or above another."""
    between, p, x, y = canvas.between, canvas.pixel, canvas.x, canvas.y
    apex = -1.55
    reach, beam = np.hypot(x, y - apex), np.arctan2(x, y - apex)
    sector = common(reach - 0.62, 2.48 - reach, (0.62 - np.abs(beam)) * reach)
    warp = 0.05 * canvas.noise(3, 2)
    deep = reach - 0.62 + warp
    tissue = 0.47 + 0.07 * canvas.noise(4, 2) - 0.06 * deep
    for depth, thick, value in ((0.04, 0.04, 0.85), (0.17, 0.016, 0.75), (0.5, 0.014, 0.7), (1.42, 0.022, 0.9)):
        at = depth + between(-0.03, 0.03) + 0.03 * canvas.noise(2)
        paint(tissue, soft(thick - np.abs(deep - at), 0.04), value)
    paint(tissue, soft(0.13 - np.abs(deep - 0.36), 0.1) * 0.6, 0.42)
    fibres = np.clip(1 - 3 * np.abs(canvas.noise(10, 2) + 12 * warp), 0, 1)
    tissue += 0.12 * fibres * (deep > 0.15)
    flip = int(canvas.rng.choice([-1, 1]))
    level = canvas.rng.permutation([between(-0.25, -0.05), between(0.1, 0.3)])
    mass_at, cyst_at = (flip * between(0.3, 0.4), float(level[0])), (-flip * between(0.3, 0.4), float(level[1]))
    whole, core = lesion(canvas, *mass_at, between(0.17, 0.22), shapes)
    cyst, inner = lesion(canvas, *cyst_at, between(0.15, 0.19), shapes)
    for spot, radius, gain in ((mass_at, 0.17, -0.2), (cyst_at, 0.13, 0.17)):
        angle, depth = np.arctan2(spot[0], spot[1] - apex), np.hypot(spot[0], spot[1] - apex)
        behind = soft(common((radius / depth - np.abs(beam - angle)) * reach, reach - depth), 0.08)
        tissue += np.float32(gain) * behind
    paint(tissue, soft(whole + 0.03, 0.05) * 0.5, 0.62)
    paint(tissue, soft(whole, 3 * p), 0.29)
    paint(tissue, soft(core, 3 * p), 0.17)
    paint(tissue, soft(cyst + 0.012, 0.03) * 0.7, 0.75)
    paint(tissue, soft(cyst, 2 * p), 0.13)
    paint(tissue, soft(inner, 2 * p), 0.02)
    speckle = _speckle(canvas, reach, beam)
    picture = np.clip(tissue + 0.16 * np.log(speckle + 0.1) * np.clip(tissue * 2.4, 0.25, 1), 0, 1)
    picture *= soft(sector, 3 * p)
    return np.maximum(picture, np.float32(0.015)), [
        region("solid mass", "abnormality", common(whole, sector), common(core, sector), "dark"),
        region("cyst", "abnormality", common(cyst, sector), common(inner, sector), "dark"),
    ]


def _speckle(canvas: Canvas, reach: Floats, beam: Floats) -> Floats:
    """Rayleigh amplitudes of mean about 1, grains as wide as the beam: drawn in polar coordinates, looked up here."""
    rows = int(2.4 / canvas.pixel)
    columns = rows // 2
    real, imaginary = (smooth(canvas.rng.standard_normal((rows, columns)).astype(np.float32), 1) for _ in range(2))
    amplitude = np.hypot(real, imaginary)
    amplitude /= amplitude.mean()
    row = np.clip((reach - 0.4) / 2.2 * rows, 0, rows - 2)
    column = np.clip((beam / 1.4 + 0.5) * columns, 0, columns - 2)
    i, j = row.astype(int), column.astype(int)
    v, u = row - i, column - j
    top = amplitude[i, j] * (1 - u) + amplitude[i, j + 1] * u
    bottom = amplitude[i + 1, j] * (1 - u) + amplitude[i + 1, j + 1] * u
    return top * (1 - v) + bottom * v


def smooth_grain(canvas: Canvas, picture: Floats, amount: float) -> Floats:
    """The picture with the slightly correlated noise of a detector."""
    grain = canvas.grain(amount)
    grain[1:] += 0.5 * grain[:-1]
    grain[:, 1:] += 0.5 * grain[:, :-1]
    return picture + grain
