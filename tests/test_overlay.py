"""An overlay shows what was said where it was said, keeps the picture's colours, and never fails on an odd answer."""

import numpy as np
import pytest

from medground.geometry import Box, Point
from medground.images.legend import ANSWER, TRUTH
from medground.images.overlay import draw


def image(height=300, width=400, value=(90, 60, 30)):
    return np.full((height, width, 3), value, np.uint8)


def near(picture, colour, tolerance=40):
    return np.abs(np.asarray(picture, int) - colour).max(axis=2) <= tolerance


def square(height=300, width=400):
    mask = np.zeros((height, width), bool)
    mask[100:200, 120:260] = True
    return mask


def test_nothing_to_draw_gives_the_picture():
    picture = draw(image(600, 700))
    assert picture.size == (700, 600) and np.array_equal(np.asarray(picture), image(600, 700))


def test_the_contour_follows_the_mask_and_the_rest_keeps_its_colours():
    picture = np.asarray(draw(image(600, 800), mask=square().repeat(2, 0).repeat(2, 1)))
    line = near(picture[:600], ANSWER)
    rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
    assert np.abs([rows[0] - 200, rows[-1] - 400, columns[0] - 240, columns[-1] - 520]).max() <= 4
    assert not line[230:370, 270:490].any()
    assert (picture[:150] == (90, 60, 30)).all()
    middle = picture[300, 380]
    assert (middle != (90, 60, 30)).any() and not near(middle[None, None], ANSWER).any()  # tinted, not covered


@pytest.mark.parametrize("value", [(0, 0, 0), (255, 255, 255), ANSWER])
def test_every_line_has_a_dark_halo(value):
    picture = np.asarray(draw(image(600, 800, value), box=Box(200, 200, 600, 400)))[:600]
    profile = picture[300, 180:220].astype(int).sum(axis=1)
    assert near(picture[300:301, 190:210], ANSWER).any()
    dark = np.flatnonzero(profile < sum(ANSWER) - 100)
    assert dark.min() < 20 < dark.max()


def test_truth_is_another_colour_and_dashed():
    both = dict(box=Box(100, 80, 300, 220), target_box=Box(60, 40, 340, 260))
    picture = np.asarray(draw(image(600, 800).copy()[:300, :400], **both))
    answer, truth = near(picture, ANSWER), near(picture, TRUTH)
    assert answer.any() and truth.any()
    scale = picture.shape[1] / 400
    edge = truth[round(40 * scale) - 3 : round(40 * scale) + 3, round(70 * scale) : round(330 * scale)].any(axis=0)
    assert 0.3 < edge.mean() < 0.8
    assert (
        answer[round(80 * scale) - 3 : round(80 * scale) + 3, round(110 * scale) : round(290 * scale)].any(axis=0).all()
    )


def test_points_are_marked_where_they_are():
    picture = np.asarray(draw(image(600, 800, (0, 0, 0)), points=(Point(200.5, 150.5), Point(600.5, 450.5))))
    white = near(picture[:600], (255, 255, 255), 60)
    for x, y in ((200, 150), (600, 450)):
        rows, columns = np.nonzero(white[y - 25 : y + 25, x - 25 : x + 25])
        assert abs((rows.min() + rows.max()) / 2 - 25) <= 1.5 and abs((columns.min() + columns.max()) / 2 - 25) <= 1.5


@pytest.mark.parametrize(
    ("size", "expected"),
    [((28, 28), (532, 532)), ((3000, 2000), (1600, 1067)), ((700, 512), (700, 512)), ((1, 1000), (1, 1000))],
)
def test_small_images_are_enlarged_and_huge_ones_reduced(size, expected):
    assert draw(image(*size)).size == expected[::-1]


@pytest.mark.slow
def test_lines_grow_with_the_picture():
    def inked(side):
        picture = draw(image(side, side, (0, 0, 0)), box=Box(0.25 * side, 0.25 * side, 0.75 * side, 0.75 * side))
        return near(np.asarray(picture)[:side], ANSWER)[side // 2].sum() / 2

    assert 1 <= inked(512) < inked(1500) <= 8


def test_caption_and_legend_stand_below_the_picture():
    plain = draw(image(512, 512), box=Box(10, 10, 100, 100))
    message = draw(image(512, 512), box=Box(10, 10, 100, 100), caption="Which dark region is on the left? " * 6)
    assert message.height > plain.height > 512
    assert np.array_equal(np.asarray(plain)[:512], np.asarray(message)[:512])


def test_a_picture_among_others_has_no_legend_of_its_own():
    picture = draw(image(512, 512), box=Box(10, 10, 100, 100), legend=False)
    assert picture.size == (512, 512)
    assert np.array_equal(np.asarray(draw(image(512, 512), box=Box(10, 10, 100, 100)))[:512], np.asarray(picture))


def test_a_sliver_has_room_for_its_legend():
    picture = draw(image(1000, 3), box=Box(0, 100, 3, 400), caption="Where?")
    assert picture.width >= 320 and picture.height > 1000


@pytest.mark.parametrize(
    "box",
    [
        Box(50, 50, 10, 10),
        Box(5, 5, 5, 9),
        Box(np.nan, 0, 5, 5),
        Box(0, 0, np.inf, 5),
        Box(-1e30, -1e30, -1, -1),
        Box(5000, 5000, 6000, 6000),
    ],
)
def test_a_box_that_encloses_nothing_here_is_left_out(box):
    plain = np.asarray(draw(image(512, 512)))
    points = (Point(-3, 5), Point(np.nan, 5), Point(5, np.inf), Point(1e9, 1e9))
    assert np.array_equal(np.asarray(draw(image(512, 512), box=box, points=points)), plain)


def test_a_box_half_outside_is_drawn_inside():
    picture = np.asarray(draw(image(512, 512, (0, 0, 0)), box=Box(-1e6, 100, 200, 1e6)))
    assert near(picture[:512], ANSWER).any()


def test_an_empty_mask_is_left_out_and_a_wrong_size_refused():
    plain = np.asarray(draw(image(512, 512)))
    assert np.array_equal(np.asarray(draw(image(512, 512), mask=np.zeros((512, 512), bool))), plain)
    with pytest.raises(ValueError, match="does not fit"):
        draw(image(512, 512), mask=square())


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (37, 53)])
def test_full_masks_and_odd_sizes_are_drawn(size):
    full = np.ones(size, bool)
    picture = draw(image(*size), mask=full, target_mask=full, box=Box(0, 0, size[1], size[0]), points=[(0.5, 0.5)])
    assert picture.mode == "RGB"
