"""A recipe with three samples, and answers about them."""

import json

import numpy as np

import medground
from medground.geometry import Box, Point

RECIPE = {
    "reasoner": "toy",
    "prompt_interface": "bbox_points",
    "segmenter": "ellipse",
    "rewards": {"format_seg": 0.5, "bbox_iou": 1.0, "mask_dice": 0.0},
}


def samples():
    made = []
    for x in (10, 20, 30):
        image = np.full((80, 100, 3), x, np.uint8)
        region = medground.Region(box=Box(x, 20, x + 30, 60), points=(Point(x + 5, 30), Point(x + 20, 50)))
        query = medground.Query(image=image, question=f"Where is {x}?", id=f"scan-{x}")
        made.append(medground.Sample(query=query, target=medground.Target(regions=(region,))))
    return made


def half(index):
    """An answer with the upper half of the true box."""
    x = 10 * (index + 1)
    answer = {"bbox": [x, 20, x + 30, 40], "points_1": [x + 5, 30], "points_2": [x + 20, 50]}
    return f"<think>a</think><answer>{json.dumps(answer)}</answer>"
