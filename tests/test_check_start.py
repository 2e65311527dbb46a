"""Checks of notebook 00: right answers pass, and typical wrong ones are named."""

import numpy as np

from tests import answers


def mask_areas(masks):
    return np.array([int(mask.sum()) for mask in masks], dtype=int)


def box_of_mask(mask):
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=float)


def semantic_map(masks, labels):
    classes = np.zeros(masks.shape[1:], dtype=int)
    for mask, label in zip(masks, labels):
        classes[mask & (classes == 0)] = label
    return classes


def last_on_top(masks, labels):
    classes = np.zeros(masks.shape[1:], dtype=int)
    for mask, label in zip(masks, labels):
        classes[mask] = label
    return classes


def area_of_box(masks):
    return np.array([int(mask.any(axis=0).sum() * mask.any(axis=1).sum()) for mask in masks], dtype=int)


RIGHT = dict(mask_areas=mask_areas, box_of_mask=box_of_mask, semantic_map=semantic_map)
WRONG = [  # check, wrong answer, case that shows it, what the message says
    ("mask_areas", lambda masks: masks.sum(), "3 x 2 and 1 x 4 pixels", "The result is the number 10"),
    ("mask_areas", area_of_box, "a ring", "the area of the box around each mask"),
    ("mask_areas", lambda masks: masks.mean(axis=(1, 2)), "3 x 2 and 1 x 4", "holds floating-point numbers"),
    ("mask_areas", lambda masks: [mask.sum() for mask in masks], "3 x 2 and 1 x 4", "The result is a list"),
    ("box_of_mask", lambda mask: box_of_mask(mask) - [0, 0, 1, 1], "columns 2 to 4", "pixel 3 ends at 4"),
    ("box_of_mask", lambda mask: box_of_mask(mask)[[1, 0, 3, 2]], "columns 2 to 4", "x and y swapped"),
    (
        "box_of_mask",
        lambda mask: box_of_mask(mask) - np.append([0, 0], box_of_mask(mask)[:2]),
        "columns 2 to 4",
        "width and height",
    ),
    ("box_of_mask", lambda mask: box_of_mask(mask).astype(int), "columns 2 to 4", "holds integers"),
    (
        "semantic_map",
        last_on_top,
        "a pixel in both masks belongs to the first object",
        "the last object wins where objects overlap",
    ),
    (
        "semantic_map",
        lambda masks, labels: semantic_map(masks, 1 + np.arange(len(labels))),
        "a cat (1) and a duck (3)",
        "the indices of the objects instead of their classes",
    ),
    (
        "semantic_map",
        lambda masks, labels: semantic_map(masks, labels > 0),
        "a cat (1) and a duck (3)",
        "0 or 1 for object or not, regardless of the class",
    ),
    ("semantic_map", lambda masks, labels: semantic_map(masks, labels).T, "a cat (1)", "It looks transposed"),
]


test_right_answers_pass, test_wrong_answers_are_named = answers.tests_of(RIGHT, WRONG)
