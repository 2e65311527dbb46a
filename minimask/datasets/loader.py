"""Batches for training: shuffled, mirrored, resized, and prepared in the background.

Batch number `step` is a function of (seed, step) alone: the same for any number of workers, and a run that was stopped
goes on at its step with nothing else to remember. The samples of all epochs form one endless row, epoch after epoch,
each in its own order; batch `step` is the row's part from step * batch_size on. So an epoch's last batch is filled up
with the first samples of the next one, and no sample is left out or shown twice within an epoch.
"""

import queue
import threading

from minimask.datasets.augmentation import flip, turn
from minimask.device import generator
from minimask.errors import InputError

ORDER, AUGMENT, SCALE = range(3)  # what a generator is for: none of the three shares its numbers with another


class InMemory:
    """A dataset whose samples are made once and kept, as many as fit into `gigabytes`.

    Drawing scenes costs about a quarter of a training step of the toy preset (36 ms of 155 for 8 scenes, two cores).
    What is kept is shared: nobody may write to it.
    """

    def __init__(self, dataset, gigabytes=1.0):
        self.dataset, self.room, self._kept = dataset, gigabytes * 1e9, {}

    def __getattr__(self, name):
        return getattr(self.dataset, name)  # class names, keypoint order, ...

    def __len__(self):
        return len(self.dataset)

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

    dataset: dataset[i] -> Sample, len(dataset); dataset.keypoint_order, if there is one, for mirrored keypoints.
    transform: image.ImageTransform. workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
    shuffle: a new order in each epoch. flip: mirror every second picture or so (probability a half). turns: turn each
    by 0 to 3 quarters, for pictures that have no top, as through a microscope.
    scale_jitter: (low, high); the short side becomes transform.min_size times a factor between them. It is one factor
    for a whole batch, so that pictures of one size still need no padding.
    share: (rank, K): make only part `rank` of the K equal parts of each batch (machine/distributed.py).
    Raises InputError for a dataset without images and for settings that make no sense.
    """

    def __init__(
        self, dataset, transform, batch_size=8, seed=0, workers=0, shuffle=True, flip=True, turns=False,
        scale_jitter=None, share=(0, 1),
    ):  # fmt: skip
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

    def __len__(self):
        """Batches an epoch, the last one filled up with samples of the next epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self):
        return self.iterate(0)

    def batch(self, step):
        """The Batch of a step: the same whenever and wherever it is asked for."""
        return self._batch(step, threading.Event())

    def iterate(self, start=0):
        """Endless iterator over the batches from step `start` on; `close()` it, or use it in a `with` block."""
        return _Batches(self, start)

    def _batch(self, step, stop):
        """The Batch of a step, or None if `stop` was set meanwhile."""
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
        """The sample at a position of the endless row, mirrored or not."""
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
    """Iterator over batches. Worker w of W makes steps w, w + W, ... and keeps at most two of them ready."""

    def __init__(self, loader, start):
        self._loader, self._step, self._start = loader, start, start
        self._stop = threading.Event()
        self._queues = [queue.Queue(maxsize=1) for _ in range(loader.workers)]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(loader, start + w, loader.workers, ready, self._stop),
                name=f"loader {w}",
                daemon=True,
            )
            for w, ready in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    def __iter__(self):
        return self

    def __next__(self):
        if self._stop.is_set():
            raise StopIteration
        step, self._step = self._step, self._step + 1
        if not self._queues:
            return self._loader.batch(step)
        result = _wait_for(self._queues[(step - self._start) % len(self._queues)])
        if isinstance(result, BaseException):
            self.close()
            raise result
        return result

    def close(self):
        """End the threads: each finishes at most the picture it is at."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __del__(self):
        self._stop.set()


def _wait_for(ready):
    while True:
        try:
            return ready.get(timeout=1)  # with a limit, so that Ctrl-C is heard on every system
        except queue.Empty:
            continue


def _work(loader, step, stride, ready, stop):
    """A worker's life: make every `stride`-th batch and hand it over, or the error that came up."""
    while not stop.is_set():
        try:
            result = loader._batch(step, stop)
        except BaseException as error:  # raised again where the batch is asked for
            result = error
        while not stop.is_set():
            try:
                ready.put(result, timeout=0.05)
                break
            except queue.Full:
                continue
        if isinstance(result, BaseException):
            return
        step += stride
