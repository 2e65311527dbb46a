"""InstanceCut: edges of instances, costs of borders, MultiCut by hand and against all partitions, and a training."""

import itertools

import numpy as np
import pytest

import minimask
from minimask.datasets.toy import ToyScenes
from minimask.systems.instance_cut import border_costs, instance_edges, superpixels
from minimask.systems.multicut import multicut
from minimask.systems.pixels import instance_map, semantic_map
from tests.pixel_training import check_training

pytest.importorskip("scipy")
pytest.importorskip("skimage")

SMALL = {"backbone": {"channels": [8, 8, 16, 16]}, "transform": {"min_size": 64, "max_size": 64}}


def test_edges_lie_on_both_sides_of_a_border():
    objects = np.array([[[-1, -1, -1, -1, -1], [-1, 0, 0, 1, 1], [-1, 0, 0, 1, 1]]])
    expected = [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert instance_edges(objects)[0].astype(int).tolist() == expected


def test_the_cost_of_a_border_is_the_sum_along_it():
    segments = np.array([[0, 0, 1], [0, 2, 2]])
    logits = np.array([[1.0, 2, 3], [4, 5, 6]])
    pairs, costs = border_costs(segments, logits)
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    np.testing.assert_allclose(costs, [-(2 + 3) / 2, -(2 + 5) / 2 - (4 + 5) / 2, -(3 + 6) / 2])


def cut(pairs, costs, parts):
    """The sum of the costs that a partition cuts."""
    return costs[parts[pairs[:, 0]] != parts[pairs[:, 1]]].sum()


def test_multicut_by_hand():
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    assert multicut(4, chain, np.array([2.0, -1, 3])).tolist() == [0, 0, 1, 1]
    triangle = np.array([[0, 1], [1, 2], [0, 2]])
    assert multicut(3, triangle, np.array([3.0, 2, -4])).tolist() == [0, 0, 1]  # 2 - 4 < 0: the third stays outside
    assert multicut(3, triangle, np.array([3.0, 2, -1])).tolist() == [0, 0, 0]  # 2 - 1 > 0: one gap does not separate
    assert multicut(3, triangle[:0], np.zeros(0)).tolist() == [0, 1, 2]


def test_multicut_comes_close_to_the_best_of_all_partitions():
    rng = np.random.default_rng(0)
    partitions = np.unique(
        [np.unique(p, return_inverse=True)[1] for p in itertools.product(range(6), repeat=6)], axis=0
    )
    pairs = np.array(list(itertools.combinations(range(6), 2)))
    best_found, gap = 0, []
    for _ in range(30):
        costs = rng.standard_normal(len(pairs))
        best = min(cut(pairs, costs, parts) for parts in partitions)
        found = cut(pairs, costs, multicut(6, pairs, costs))
        assert best - 1e-9 <= found <= costs.sum() + 1e-9  # never worse than cutting everything
        best_found += found <= best + 1e-9
        gap.append((costs.sum() - found) / (costs.sum() - best))
    assert best_found >= 15 and np.mean(gap) > 0.9  # of what the best partition gains over cutting everything


@pytest.fixture
def model():
    return minimask.build("instance_cut", classes=["cat", "dog", "duck"], system={"width": 16}, **SMALL)


def test_superpixels_end_at_edges_and_where_the_class_changes():
    labels = np.zeros((6, 20), int)
    labels[:, 8:] = 1
    logits = np.full((6, 20), -6.0)
    logits[:, 13] = 6
    segments = superpixels(logits, labels)
    assert [len(set(segments[:, columns].ravel())) for columns in (np.s_[:8], np.s_[8:13], np.s_[14:])] == [1, 1, 1]
    assert len(np.unique(segments)) == 3


def test_true_maps_give_the_true_objects(model):
    scenes = ToyScenes("train", size=128, count=6)
    large = minimask.build("instance_cut", transform={"min_size": 128, "max_size": 128})
    batch = large.transform([scenes[i] for i in range(6)])
    owner, labels = instance_map(batch), semantic_map(batch)
    overlaps = []
    for n in range(6):
        probabilities = np.eye(4)[labels[n]] * 0.9 + 0.025
        edges = np.where(instance_edges(owner[n : n + 1])[0], 3.0, -3)
        masks = [mask for _, _, mask in model.parts(probabilities, edges)]
        for mask in batch.masks[n].astype(bool):
            if mask.sum() >= 100:
                overlaps.append(max((mask & one).sum() / (mask | one).sum() for one in masks))
    assert len(overlaps) > 15
    assert np.mean(overlaps) > 0.85 and np.mean(np.array(overlaps) > 0.7) > 0.85


def test_training_finds_objects_and_the_checkpoint_comes_back(tmp_path, model):
    _, after, _ = check_training(model, tmp_path, steps=200, learning_rate=0.01, ap50=0.25)
    assert after["loss_edges"] < 0.3  # 0.5 if every pixel has the share of the edges
