"""What both sides of the benchmark share: inputs made from a seed, and the loop that answers requests.

It imports only NumPy and the standard library, because the torch side runs in an environment without minimask.
"""

import json
import os
import sys
import time
import traceback

import numpy as np

# Learning rate of the timed training steps. With 0 the weights stay as they are, so that each step does the same work.
# Otherwise more RoIs would reach the mask head the longer a model learns, and the faster side, which takes more steps
# in its time, would do more work.
LEARNING_RATE = 0.0


def array(*shape, seed=0):
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def scattered_boxes(count, height, width, seed=0):
    """(count, 4) float32 boxes inside an image, with sides from 1/32 to 2/3 of it; small ones are more frequent."""
    rng = np.random.default_rng(seed)
    size = np.array([width, height])
    sides = size * np.exp(rng.uniform(np.log(1 / 32), np.log(2 / 3), (count, 2)))  # (count, 2)
    corner = rng.uniform(0, 1, (count, 2)) * (size - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def clustered_boxes(count, height, width, objects=50, seed=0):
    """(count, 4) float32 boxes that gather around some objects, like an RPN's, and their (count,) distinct scores."""
    rng = np.random.default_rng(seed)
    boxes = scattered_boxes(objects, height, width, seed)[rng.integers(0, objects, count)]
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)  # (count, 4)
    boxes = boxes + rng.normal(0, 0.1, (count, 4)) * sides
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    scores = (rng.permutation(count) + 0.5) / count
    return boxes, scores.astype(np.float32)


def peak_memory():
    """The most memory that this process has held, in bytes, or None if the system does not report it."""
    try:
        with open("/proc/self/status") as status:  # ru_maxrss would include the parent's memory before the exec
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def times(run, seconds, wait=None):
    """Measure calls of `run` until they fill `seconds`, after at least one call that is not counted.

    wait: on a card, the function that waits for it. Waiting takes longer than many kernels, so several calls are then
        timed together, with one wait at the end, and their mean counts as one call.
    Returns the seconds of each call, as a list.
    """
    calls = 1

    def measure():
        start = time.perf_counter()
        for _ in range(calls):
            run()
        if wait is not None:
            wait()
        return time.perf_counter() - start

    measure()  # wakes the threads and fills the caches; on a card, also compiles kernels and captures graphs
    while wait is not None and measure() < min(seconds, 0.01):
        calls *= 2
    measured = []
    while calls * sum(measured) < seconds:
        measured.append(measure() / calls)
    return measured


def fingerprint(arrays):
    """[[size, mean magnitude], ...] of some arrays: equal for equal results, whatever the order of the axes."""
    return [[a.size, float(np.abs(a, dtype=np.float64).mean()) if a.size else 0.0] for a in arrays]


def serve(pieces, about, to_arrays, wait=None, peak=peak_memory):
    """Answer requests, one JSON object per line, until the input ends.

    pieces: dict from a name to a function(**settings) that prepares a piece of work and returns the function that does
        it once.
    about: description of the library, which JSON can write.
    to_arrays: function that turns what a piece returns into a list of NumPy arrays.
    wait: function that waits for the card, if there is one.
    peak: function that returns the most memory that was held, in bytes.

    {"about": true}                                       -> about
    {"piece": name, "settings": {...}, "seconds": s}      -> {"seconds": [...]}      of single runs that fill s seconds
    {"piece": ..., "settings": ..., "fingerprint": true}  -> {"fingerprint": [...]}  of the result of one run
    {"piece": ..., "settings": ..., "save": path}         -> {"saved": path}         with the result of one run, as .npz
    {"piece": ..., "settings": ..., "memory": true}       -> {"peak": bytes}         of this process, after two runs
    {"forget": true}                                      -> {}                      and frees what was prepared
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get in between the answers
    prepared = {}

    def answer(request):
        if "about" in request:
            return about
        if "forget" in request:
            prepared.clear()
            return {}
        key = json.dumps([request["piece"], request["settings"]])
        if key not in prepared:
            prepared[key] = pieces[request["piece"]](**request["settings"])
        run = prepared[key]
        if "seconds" in request:
            return {"seconds": times(run, request["seconds"], wait)}
        if "fingerprint" in request:
            return {"fingerprint": fingerprint(to_arrays(run()))}
        if "save" in request:
            np.savez(request["save"], *to_arrays(run()))
            return {"saved": request["save"]}
        run()
        run()
        return {"peak": peak()}

    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # the other process reports it and ends
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)
