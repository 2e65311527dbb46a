"""Optimizer steps on the GPU, all parameters at once; see optimizer.cu and minimask.machine.gpu_optimizer.

p, g and state arrays: flat float32 buffers of a multiple of 64 numbers. decay: (P / 64,) float32. rates: (3,) float32.
report: (4,) float64. place: (1,) int32.
"""

import numpy as np

from minimask.device import array_module, takes
from minimask.kernels.cuda import NULL, blocks_for, launch

THREADS = 256
CHUNK, TILE, MOVES = 64, 4096, 128  # as in optimizer.cu
Moves = np.dtype([("source", np.uint64, MOVES), *((name, np.int32, MOVES) for name in ("chunk", "size", "block"))])


@takes(lambda arrays, starts, flat: flat.dtype == np.float32)
def collect(arrays, starts, flat):
    """See `minimask.machine.flat_parameters.collect`; starts are multiples of 64. Each launch copies 128 arrays."""
    arrays = [array_module(a).ascontiguousarray(a, np.float32) for a in arrays]
    for i in range(0, len(arrays), MOVES):
        some, moves, blocks = arrays[i : i + MOVES], np.zeros((), Moves), 0
        for k, (array, start) in enumerate(zip(some, starts[i:])):
            moves["source"][k], moves["chunk"][k], moves["size"][k] = array.data.ptr, start // CHUNK, array.size
            moves["block"][k] = blocks
            blocks += -(-array.size // TILE)
        if blocks:
            launch("optimizer", "collect", blocks, THREADS, moves, len(some), flat)


def set_rates(rates, lr, correction1, correction2):
    """rates = lr, correction1, correction2, in stream order."""
    launch("optimizer", "set_rates", 1, 1, rates, float(lr), float(correction1), float(correction2))


def clip(g, decay, losses, max_norm, place, report):
    """Fill report: the norm of g, whether it and losses (or None) are finite, the place, the scale for max_norm."""
    blocks = blocks_for(g.size // 4, THREADS, most=1024)
    parts = array_module(g).empty(blocks, np.float64)
    launch("optimizer", "norm_parts", blocks, THREADS, g, decay, np.int64(g.size // 4), parts, place)
    losses, count = (NULL, 0) if losses is None else (losses, losses.size)
    launch("optimizer", "clip", 1, THREADS, parts, blocks, losses, count, float(max_norm), place, report)


def sgd(p, g, velocity, decay, rates, report, momentum):
    """velocity = momentum velocity + (scale g + decay p);  p -= lr velocity."""
    fours = p.size // 4
    blocks = blocks_for(fours, THREADS)
    launch("optimizer", "sgd", blocks, THREADS, p, g, velocity, decay, rates, report, float(momentum), np.int64(fours))


def adamw(p, g, m, v, decay, rates, report, betas, eps):
    """m, v = moving averages of g and g^2;  p = (1 - lr decay) p - lr m^ / (sqrt(v^) + eps)."""
    fours = p.size // 4
    averages = [float(x) for beta in betas for x in (beta, 1 - beta)]
    arrays = p, g, m, v, decay, rates, report
    launch("optimizer", "adamw", blocks_for(fours, THREADS), THREADS, *arrays, *averages, float(eps), np.int64(fours))
