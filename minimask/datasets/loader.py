"""Batches for training: shuffled, mirrored, resized, and prepared in the background.

The batch of a step is a function of (seed, step) alone. It is the same for any number of workers, and a run that was
stopped continues at its step without any other state. The samples of all epochs form one endless sequence, epoch after
epoch, each in its own order; the batch of a step begins at position step * batch_size of that sequence. The last batch
of an epoch is therefore filled up with the first samples of the next one, and within an epoch no sample is left out or
shown twice.
"""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait

from minimask.datasets.augmentation import flip, turn
from minimask.device import generator
from minimask.errors import InputError

ORDER, AUGMENT, SCALE = range(3)  # what a generator is used for; each has its own random numbers


class InMemory:
    """A dataset that keeps its samples, as many as fit into `gigabytes`, so that they are made only once.

    Drawing scenes takes about a quarter of a training step of the toy preset (36 ms of 155 ms for 8 scenes, two cores).
    The samples are shared: do not change them.
    """

    def __init__(self, dataset, gigabytes=1.0):
        self.dataset, self.room, self._kept = dataset, gigabytes * 1e9, {}

    def __getattr__(self, name):
        return getattr(self.dataset, name)  # class names, keypoint order, ...

    def __len__(self):
        return len(self.dataset)

    def __repr__(self):
        return f"InMemory({self.dataset!r}, {len(self._kept)} samples kept)"

    def __getitem__(self, index):
        sample = self._kept.get(index)
        if sample is None:
            sample = self.dataset[index]
            self.room -= sample.image.nbytes + sample.masks.nbytes
            if self.room > 0:
                self._kept[index] = sample
        return sample


class Loader:
    """Makes batches of a dataset.

    dataset: dataset[i] is a Sample; has a length and, to mirror keypoints, keypoint_order.
    transform: an image.ImageTransform.
    batch_size: samples per batch.
    seed: seed of the order and of the random changes.
    workers: threads that prepare batches ahead; with 0, each batch is prepared when it is requested.
    shuffle: whether each epoch has a new order.
    flip: whether to mirror each image with a probability of one half.
    turns: whether to rotate each image by 0 to 3 quarter turns, for images without a top, as from a microscope.
    scale_jitter: (low, high). The short side becomes transform.min_size times a factor between them. All images of a
        batch get the same factor, so that images of the same size still need no padding.
    share: (rank, K): make only part `rank` of the K equal parts of each batch (machine/distributed.py).
    Raises InputError if the dataset has no images or a setting is out of its range.
    """

    def __init__(
        self,
        dataset,
        transform,
        batch_size=8,
        seed=0,
        workers=0,
        shuffle=True,
        flip=True,
        turns=False,
        scale_jitter=None,
        share=(0, 1),
    ):
        if len(dataset) == 0:
            raise InputError("loader: the dataset has no images")
        if batch_size < 1:
            raise InputError(f"loader: batch size must be at least 1, got {batch_size}")
        if batch_size % share[1]:
            raise InputError(
                f"loader: {share[1]} workers share each batch equally, so the batch size must be a multiple of "
                f"{share[1]}, got {batch_size}"
            )
        if workers < 0:
            raise InputError(f"loader: workers must be 0 or more, got {workers}")
        if seed < 0:
            raise InputError(f"loader: seed must not be negative, got {seed}")
        if scale_jitter is not None and not 0 < scale_jitter[0] <= scale_jitter[1]:
            raise InputError(f"loader: scale_jitter must be (low, high) with 0 < low <= high, got {scale_jitter}")
        self.dataset, self.transform, self.batch_size, self.seed = dataset, transform, batch_size, seed
        self.workers, self.shuffle = workers, shuffle
        self.flip, self.turns, self.scale_jitter, self.share = flip, turns, scale_jitter, share
        self._last_order = (None, None)  # epoch, its order

    def __repr__(self):
        return f"Loader({self.dataset!r}, batch_size={self.batch_size}, seed={self.seed})"

    def __len__(self):
        """The number of batches per epoch, the last one filled up with samples of the next epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self):
        return self.iterate(0)

    def batch(self, step):
        """The Batch of a step, which is always the same."""
        return self._batch(step, threading.Event())

    def iterate(self, start=0):
        """An endless iterator over the batches from step `start` on. Close it, or use it in a `with` block."""
        return _Batches(self, start)

    def _batch(self, step, stop):
        """The Batch of a step, or None if `stop` is set while it waits."""
        rank, parts = self.share
        count = self.batch_size // parts
        first = step * self.batch_size + rank * count
        samples = []
        for position in range(first, first + count):
            if stop.is_set():
                return None
            samples.append(self._sample(position))
        return self.transform(samples, self._short_sides(step, count))

    def _sample(self, position):
        """The sample at a position of the endless sequence, mirrored or not."""
        epoch, place = divmod(position, len(self.dataset))
        sample = self.dataset[int(self._order(epoch)[place])]
        rng = generator(self.seed, AUGMENT, position)
        if self.flip and rng.random() < 0.5:
            sample = flip(sample, getattr(self.dataset, "keypoint_order", None))
        if self.turns:
            for _ in range(rng.integers(4)):
                sample = turn(sample)
        return sample

    def _order(self, epoch):
        if not self.shuffle:
            return range(len(self.dataset))
        known, order = self._last_order
        if known != epoch:
            order = generator(self.seed, ORDER, epoch).permutation(len(self.dataset))
            self._last_order = epoch, order
        return order

    def _short_sides(self, step, count):
        if self.scale_jitter is None:
            return None
        factor = generator(self.seed, SCALE, step).uniform(*self.scale_jitter)
        return [max(1, round(factor * self.transform.min_size))] * count


class _Batches:
    """Iterator over batches. Each worker prepares at most two of them ahead."""

    def __init__(self, loader, start):
        self._loader, self._step = loader, start
        self._stop = threading.Event()
        self._ahead = deque()  # the futures of the coming batches, in order
        self._pool = ThreadPoolExecutor(loader.workers, "loader") if loader.workers else None
        for _ in range(2 * loader.workers):
            self._prepare()

    def _prepare(self):
        self._ahead.append(self._pool.submit(self._loader._batch, self._step, self._stop))
        self._step += 1

    def __iter__(self):
        return self

    def __next__(self):
        if self._stop.is_set():
            raise StopIteration
        if self._pool is None:
            self._step += 1
            return self._loader.batch(self._step - 1)
        future = self._ahead.popleft()
        while not wait([future], timeout=1).done:  # with a time limit, so that Ctrl-C is noticed on every system
            pass
        if future.exception() is not None:
            self.close()
            raise future.exception()
        self._prepare()
        return future.result()

    def close(self):
        """End the threads. Each finishes at most the image it is working on."""
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __del__(self):
        self._stop.set()
