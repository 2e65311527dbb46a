"""Cats, dogs and ducks as shapes, painted in order, with the places of their keypoints.

`toy.py` turns, scales and shades them.
"""

from minimask.datasets.cats import draw_cat
from minimask.datasets.dogs import draw_dog
from minimask.datasets.ducks import draw_duck

CLASSES = ("cat", "dog", "duck")  # labels 1, 2, 3: the classes of the lecture
KEYPOINTS = ("nose", "left_eye", "right_eye", "chest", "back", "tail", "left_foot", "right_foot")
SKELETON = ((0, 1), (0, 2), (0, 3), (3, 4), (4, 5), (3, 6), (3, 7))  # pairs of KEYPOINTS to join with lines


def draw_animal(label, rng):
    """Draw an animal in a random pose, coat and build. label: 1 cat, 2 dog, 3 duck. Returns a Drawing."""
    return (draw_cat, draw_dog, draw_duck)[label - 1](rng)
