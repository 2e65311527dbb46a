"""The loader: a batch is a function of (seed, step), and threads only make it faster."""

import threading
import time
from dataclasses import fields

import numpy as np
import pytest

from minimask.datasets.loader import InMemory, Loader
from minimask.datasets.toy import ToyScenes
from minimask.errors import InputError
from minimask.image import ImageTransform
from minimask.structures import Sample


class Numbered:
    """Image i has the color i, one object on the left, and a left and a right keypoint."""

    class_names, category_ids, keypoint_order = ("thing",), (1,), np.array([1, 0])

    def __init__(self, count=10, delay=0.0, broken=None):
        self.count, self.delay, self.broken = count, delay, broken

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        time.sleep(self.delay)
        if i == self.broken:
            raise InputError(f"picture {i}.png: not a readable image")
        masks = np.zeros((1, 32, 32), np.uint8)
        masks[0, :, :8] = 1
        return Sample(
            image=np.full((32, 32, 3), i % 256, np.uint8),
            boxes=np.array([[0, 0, 8, 32]], np.float32),
            labels=np.array([1]),
            masks=masks,
            crowd=np.zeros(1, bool),
            image_id=i,
            name=f"picture {i}",
            keypoints=np.array([[[2, 3, 2], [4, 5, 2]]], np.float32),
        )


TRANSFORM = ImageTransform(32, 64)


def equal(a, b):
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name))
        if isinstance(getattr(a, f.name), np.ndarray)
        else getattr(a, f.name) == getattr(b, f.name)
        for f in fields(a)
    )


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_an_epoch_shows_every_image_once_and_the_next_has_another_order():
    loader = Loader(Numbered(10), TRANSFORM, 4, seed=5)
    row = [i for step in range(5) for i in loader.batch(step).image_ids]
    assert sorted(row[:10]) == sorted(row[10:]) == list(range(10))
    assert row[:10] != row[10:] != list(range(10))
    assert len(loader) == 3  # the third batch holds the first two of the next epoch


def test_without_shuffling():
    loader = Loader(Numbered(5), TRANSFORM, 3, shuffle=False, flip=False)
    assert [loader.batch(step).image_ids for step in range(3)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]


def test_a_batch_larger_than_the_dataset():
    assert sorted(Loader(Numbered(2), TRANSFORM, 5).batch(0).image_ids[:4]) == [0, 0, 1, 1]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_any_number_of_workers_makes_the_same_batches(workers):
    scenes = ToyScenes("train", 64, count=20)
    expected = Loader(scenes, ImageTransform(64, 96), 3, seed=1, scale_jitter=(0.7, 1.3))
    loader = Loader(scenes, ImageTransform(64, 96), 3, seed=1, workers=workers, scale_jitter=(0.7, 1.3))
    with loader.iterate(4) as batches:
        for step in range(4, 11):
            assert equal(next(batches), expected.batch(step))
    assert not loader_threads()


def test_batches_do_not_depend_on_what_was_asked_before():
    one, other = (Loader(Numbered(7), TRANSFORM, 2, seed=2) for _ in range(2))
    last_first = [one.batch(step) for step in reversed(range(9))][::-1]
    assert all(equal(a, other.batch(step)) for step, a in enumerate(last_first))


def test_seeds_differ():
    first, second = (Loader(Numbered(30), TRANSFORM, 8, seed=seed).batch(0).image_ids for seed in (0, 1))
    assert first != second


def test_half_of_the_images_are_mirrored_with_their_boxes_masks_and_keypoints():
    loader = Loader(Numbered(10), TRANSFORM, 10)
    mirrored = 0
    for step in range(20):
        batch = loader.batch(step)
        for n in range(10):
            if batch.boxes[n, 0, 0] == 0:
                assert batch.boxes[n, 0].tolist() == [0, 0, 8, 32] and batch.masks[n, 0, :, :8].all()
                assert batch.keypoints[n, 0].tolist() == [[2, 3, 2], [4, 5, 2]]
            else:
                mirrored += 1
                assert batch.boxes[n, 0].tolist() == [24, 0, 32, 32] and batch.masks[n, 0, :, 24:].all()
                assert batch.masks[n].sum() == 8 * 32
                assert batch.keypoints[n, 0].tolist() == [[28, 5, 2], [30, 3, 2]]  # the two are swapped
    assert 70 < mirrored < 130


def test_an_image_is_mirrored_in_some_epochs_only():
    loader = Loader(Numbered(1), TRANSFORM, 1)
    assert {float(loader.batch(step).boxes[0, 0, 0]) for step in range(20)} == {0.0, 24.0}
    assert {float(Loader(Numbered(1), TRANSFORM, 1, flip=False).batch(step).boxes[0, 0, 0]) for step in range(9)} == {0}


def test_scale_jitter_stays_within_its_bounds():
    loader = Loader(Numbered(4), ImageTransform(32, 64, divisor=1), 2, scale_jitter=(0.5, 1.5))
    sides = [loader.batch(step).sizes for step in range(60)]
    assert all(len(set(side.ravel().tolist())) == 1 for side in sides)  # one factor per batch
    sides = [side[0, 0] for side in sides]
    assert min(sides) >= 16 and max(sides) <= 48 and max(sides) - min(sides) > 24
    batch = loader.batch(3)
    assert np.allclose(batch.boxes[0, 0, 3], batch.sizes[0, 0])


def test_scale_jitter_never_reaches_size_zero():
    batch = Loader(Numbered(1), ImageTransform(1, 8), 1, scale_jitter=(0.01, 0.02)).batch(0)
    assert batch.sizes.tolist() == [[1, 1]]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_errors_are_raised_where_the_batch_is_asked_for(workers):
    loader = Loader(Numbered(8, broken=5), TRANSFORM, 2, workers=workers, shuffle=False)
    batches = loader.iterate()
    assert next(batches).image_ids == [0, 1] and next(batches).image_ids == [2, 3]
    with pytest.raises(InputError, match="picture 5.png: not a readable image"):
        next(batches)
    batches.close()
    assert not loader_threads()


def test_closing_ends_the_threads_at_once():
    loader = Loader(Numbered(1000, delay=0.01), TRANSFORM, 100, workers=2)
    batches = loader.iterate()
    time.sleep(0.05)
    assert len(loader_threads()) == 2
    begin = time.perf_counter()
    batches.close()
    assert time.perf_counter() - begin < 0.5  # a batch would take a second
    assert not loader_threads()
    batches.close()  # closing twice does no harm
    with pytest.raises(StopIteration):
        next(batches)


def test_closing_while_the_queues_are_full():
    batches = Loader(Numbered(10), TRANSFORM, 2, workers=2).iterate()
    next(batches)
    time.sleep(0.3)
    batches.close()
    assert not loader_threads()


def test_a_forgotten_iterator_leaves_no_threads():
    batches = Loader(Numbered(10), TRANSFORM, 2, workers=2).iterate()
    next(batches)
    del batches
    for _ in range(50):
        if not loader_threads():
            break
        time.sleep(0.05)
    assert not loader_threads()


def test_threads_work_ahead_but_not_without_limit():
    dataset = Numbered(10)
    asked = []
    dataset_getitem = dataset.__getitem__

    class Counting(Numbered):
        def __getitem__(self, i):
            asked.append(i)
            return dataset_getitem(i)

    with Loader(Counting(10), TRANSFORM, 1, workers=2).iterate() as batches:
        next(batches)
        time.sleep(0.4)
        assert 2 <= len(asked) <= 6


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(dataset=Numbered(0)), "the dataset has no images"),
        (dict(batch_size=0), "batch size must be at least 1, got 0"),
        (dict(workers=-1), "workers must be 0 or more, got -1"),
        (dict(seed=-3), "seed must not be negative, got -3"),
        (dict(scale_jitter=(1.5, 0.5)), r"scale_jitter must be \(low, high\)"),
        (dict(scale_jitter=(0, 1)), r"0 < low <= high, got \(0, 1\)"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        Loader(**{"dataset": Numbered(3), "transform": TRANSFORM, **settings})


def test_kept_samples_are_made_once_as_long_as_there_is_room():
    class Counted(Numbered):
        made = 0

        def __getitem__(self, index):
            self.made += 1
            return super().__getitem__(index)

    data = Counted(6)
    one = data[0].image.nbytes + data[0].masks.nbytes
    for room, expected in ((6.5 * one, 6), (2.5 * one, 2 + 3 * 4), (0, 18)):
        data.made = 0
        kept = InMemory(data, gigabytes=room / 1e9)
        for _ in range(3):
            assert [kept[i].image_id for i in range(len(kept))] == list(range(6))
        assert data.made == expected


def test_turns_are_by_0_to_3_quarters():
    loader = Loader(Numbered(40), TRANSFORM, 1, shuffle=False, flip=False, turns=True)
    plain = Loader(Numbered(40), TRANSFORM, 1, shuffle=False, flip=False)
    seen = {i: [] for i in range(4)}
    for step in range(40):
        masks, turned = plain.batch(step).masks[0, 0], loader.batch(step).masks[0, 0]
        for quarters in range(4):
            expected = np.rot90(masks, quarters)
            if expected.shape == turned.shape and (expected == turned).all():
                seen[quarters].append(step)
    assert all(len(steps) >= 3 for steps in seen.values())
