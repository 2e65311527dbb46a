"""Training steps on a GPU: launched without waiting for the card, and read one step later.

The host only queues work for the card; a result exists once the card has got that far. Reading a loss means waiting for
it, and while the host waits, the card runs out of work. So a step reads nothing: its losses and the length of its
gradient are copied to page-locked memory, and the host reads them after it has launched the next step.

    host     prepare 1, launch 1 | prepare 2, launch 2, read 1 | prepare 3, launch 3, read 2 | ...
    card               copy 1, step 1 | step 2 (and copy 3)         | step 3 (and copy 4)         | ...

The card itself checks that the numbers of a step are finite (`GpuOptimizer.step`). From the first step where they are
not, it no longer changes any weight, so when the host finds out, the weights are still those from before that step.

A CUDA graph records the hundreds of launches of a step once and then starts them all with a single launch.
"""

import collections
from dataclasses import dataclass, fields, replace

import numpy as np

from minimask.kernels import cuda as kernels
from minimask.machine import distributed
from minimask.machine.gpu_optimizer import GpuOptimizer
from minimask.mask_rcnn import sampling_generator
from minimask.run.finite import check_losses, gradient_error
from minimask.run.log import StepReport
from minimask.train import sum_of

MOST_GRAPHS = 4  # each keeps the memory of a whole step
OBJECTS = 8  # a graph has room for a multiple of this many ground truth objects per image


@dataclass
class _Launched:
    """A step that was launched, and whose results may not have arrived yet.

    step: index of the step, from 0.
    images: number of images in this worker's batch.
    names: their names.
    learning_rate: the learning rate of the step.
    parts: names of the parts of the loss.
    losses: their values, in page-locked memory.
    report: what GpuOptimizer.step reports, in page-locked memory.
    read: CUDA event after which both have arrived.
    """

    step: int
    images: int
    names: list
    learning_rate: float
    parts: list
    losses: np.ndarray
    report: np.ndarray
    read: object


class StepsOnGpu:
    """Takes the training steps of a model that is on a card. Use it in a `with` block: it has a stream of its own.

    model, optimizer, settings: as `train.training_step` takes them.
    graph: record the launches of a step as a CUDA graph, one per shape of a batch, and replay it. The results are the
        same up to rounding. Only MOST_GRAPHS graphs are kept; batches of further shapes are computed without one, so
        give all images one padded size.
    """

    def __init__(self, model, optimizer, settings, graph=False):
        import cupy
        import cupyx

        self.cupy, self.page_locked = cupy, cupyx.empty_pinned
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.gpu_optimizer = GpuOptimizer(optimizer)
        self.launched = collections.deque()
        self.graphs = {} if graph else None
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def __enter__(self):
        self.stream.wait_event(self.cupy.cuda.get_current_stream().record())
        self.stream.__enter__()
        return self

    def __exit__(self, *error):
        self.stream.__exit__(*error)
        self.stream.synchronize()

    def batches(self, batches):
        """The batches of an iterator, on the card."""
        return Feeder(batches)

    def run(self, batch, step):
        """Launch step `step` on `batch`.

        Returns the reports of the steps before it, a list of StepReport. Raises NotFiniteError if one of those steps
        was not finite.
        """
        self.gpu_optimizer.prepare_step()
        rng = distributed.own_rows(sampling_generator(self.settings.seed, step))
        graph = None if self.graphs is None else self._graph(batch)
        parts, losses, report = graph.run(batch, rng) if graph else self.compute(batch, Draws(rng))
        copies = [self.page_locked(x.shape, x.dtype) for x in (losses, report)]
        for x, copy in zip((losses, report), copies):
            x.get(out=copy, blocking=False)
        read = self.cupy.cuda.get_current_stream().record()
        rate = self.optimizer.lr
        self.launched.append(_Launched(step, len(batch.images), batch.names, rate, parts, *copies, read))
        return [self._finish() for _ in range(len(self.launched) - 1)]

    def rest(self):
        """Wait for the steps that were launched. Returns the reports that no `run` has returned yet."""
        return [self._finish() for _ in range(len(self.launched))]

    def compute(self, batch, rng):
        """Launch one step.

        Returns the names of the parts of the loss (a list), and on the card their values and the optimizer's report.
        """
        losses = self.model.losses(batch, rng)
        self.optimizer.zero_grad()
        sum_of(losses).backward()
        self.gpu_optimizer.flat.collect()
        distributed.sum_in_place(self.gpu_optimizer.flat.gradients)
        values = distributed.total(self.cupy.stack([loss.data for loss in losses.values()]))
        return list(losses), values, self.gpu_optimizer.step(self.settings.clip, values)

    def _graph(self, batch):
        """The graph for batches of this shape; None if there are too many graphs already."""
        objects = -(-batch.boxes.shape[1] // OBJECTS) * OBJECTS
        key = batch.images.shape, objects
        if key not in self.graphs and len(self.graphs) < MOST_GRAPHS:
            self.graphs[key] = StepGraph(self, objects)
        return self.graphs.get(key)

    def _finish(self):
        launched = self.launched.popleft()
        launched.read.synchronize()
        norm, finite, place = launched.report[:3].tolist()
        losses = dict(zip(launched.parts, launched.losses.tolist()))
        if not finite:
            self._forget(1 + len(self.launched))
            check_losses(launched.step, losses, launched.names)
            raise gradient_error(launched.step, self._parameter_at(int(place)), launched.names)
        return StepReport(launched.step, launched.images, launched.learning_rate, losses, norm)

    def _forget(self, steps):
        """Take back the last `steps` steps, which changed no weight."""
        self.launched.clear()
        self.optimizer.steps -= steps
        self.gpu_optimizer.forget_failure()

    def _parameter_at(self, place):
        """The name of the parameter to which index `place` of the gradients belongs; None if `place` is negative."""
        if place < 0:
            return None
        found = self.optimizer.params[self.gpu_optimizer.flat.parameter_at(place)]
        return next(name for name, parameter in self.model.named_parameters() if parameter is found)


class Feeder:
    """An iterator over batches on the card: while the card computes with one, a second stream copies the next.

    Batches reuse each other's memory. So each batch is kept until the one after the next is requested; before that one
    is copied, the copying stream waits until the card has finished with the kept batch, which is usually long done.
    """

    def __init__(self, batches):
        import cupy

        self.cuda, self.batches = cupy.cuda, batches
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.last, self.kept = None, collections.deque()  # (batch, event after which the card has finished with it)

    def __iter__(self):
        return self

    def __next__(self):
        batch = distributed.same_size(next(self.batches))
        computing = self.cuda.get_current_stream()
        self.kept.append((self.last, computing.record()))
        if len(self.kept) > 1:
            self.stream.wait_event(self.kept.popleft()[1])
        with self.stream:
            self.last = batch.to("cuda")
            copied = self.stream.record()
        computing.wait_event(copied)
        return self.last

    def close(self):
        """Close the iterator over the batches on the host."""
        self.batches.close()


class Draws:
    """A random generator for `targets.sample`: the host draws the numbers, and they come as arrays on the card."""

    def __init__(self, rng):
        self.rng = rng

    def random(self, shape, dtype=np.float64):
        import cupy

        return cupy.asarray(self.rng.random(shape, dtype=dtype))


class StepGraph:
    """One training step for batches of one shape, as a CUDA graph.

    A graph replays the same launches on the same addresses. So inputs, random numbers and results are arrays that stay
    where they are, and all memory comes from a pool of the graph's own, which nothing else writes to.

    The first step is an ordinary one: it compiles the kernels, brings constants to the card and fills the pool. At the
    second step the same launches are captured (which runs none of them), and from then on replayed.

    steps: the StepsOnGpu that the graph belongs to.
    objects: how many ground truth objects per image there is room for.
    """

    # A step draws twice: for the anchors, and for the proposals together with the ground truth objects.
    WITH_OBJECTS = (1,)

    def __init__(self, steps, objects):
        self.steps, self.objects = steps, objects
        self.inputs, self.draws, self.graph = None, [], None
        self.pool = steps.cupy.cuda.MemoryPool()

    def run(self, batch, rng):
        """Take a step, with the arguments and the results of StepsOnGpu.compute."""
        missing = self.objects - batch.boxes.shape[1]
        if self.inputs is None:
            self.inputs = replace(batch, **{name: self._room(batch, name) for name in _arrays(batch)})
            self._fill(batch)
            self.rng, self.missing = rng, missing
            with kernels.as_in_a_graph(), self.steps.cupy.cuda.using_allocator(self.pool.malloc):
                return self.steps.compute(self.inputs, self)
        self._fill(batch)
        for i, array in enumerate(self.draws):
            self._draw(rng, array, missing if i in self.WITH_OBJECTS else 0)
        if self.graph is None:
            self._capture()
        self.graph.launch(self.steps.stream)
        return self.results

    def _capture(self):
        stream = self.steps.stream
        self.drawn = iter(self.draws)
        with self.steps.cupy.cuda.using_allocator(self.pool.malloc):
            stream.begin_capture()
            try:
                self.results = self.steps.compute(self.inputs, self)
            finally:
                graph = stream.end_capture()
        self.graph = graph

    def random(self, shape, dtype=np.float64):
        """The next random numbers of the step, in an array that is the same in every step."""
        if self.steps.stream.is_capturing():
            return next(self.drawn)
        array = self.steps.cupy.empty(shape, dtype)
        self._draw(self.rng, array, self.missing if len(self.draws) in self.WITH_OBJECTS else 0)
        self.draws.append(array)
        return array

    def _draw(self, rng, array, missing):
        """Fill `array` with the numbers that it would get without its last `missing` columns.

        Those columns belong to objects that do not exist; nothing reads their numbers.
        """
        n, width = array.shape
        numbers = np.zeros((n, width), array.dtype)
        numbers[:, : width - missing] = rng.random((n, width - missing), dtype=array.dtype)
        array[...] = self.steps.cupy.asarray(numbers)

    def _room(self, batch, name):
        """An uninitialized array for field `name` of a batch, with room for `objects` objects."""
        array = getattr(batch, name)
        shape = array.shape if name in ("images", "sizes") else (len(array), self.objects, *array.shape[2:])
        return self.steps.cupy.empty(shape, array.dtype)

    def _fill(self, batch):
        for name in _arrays(batch):
            source, target = getattr(batch, name), getattr(self.inputs, name)
            target[:, : source.shape[1]] = source
            target[:, source.shape[1] :] = 0


def _arrays(batch):
    """Names of the fields of a batch that lie on the card."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "original_sizes"}
    return [name for name, value in values.items() if hasattr(value, "dtype")]
