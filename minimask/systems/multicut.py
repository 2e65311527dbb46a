"""MultiCut: divide a graph whose edges say, by the sign of their cost, who belongs together. Slide T07.

The cost of an edge is paid if its ends are in different parts, so it pays to cut edges of negative cost, as long as no
others have to be cut along with them. How many parts there are is a result. Finding the best partition is NP-hard;
greedy additive edge contraction (Keuper et al. 2015, section 4) is a good and simple approximation.
"""

import heapq

import numpy as np


def multicut(count, pairs, costs):
    """Greedy additive edge contraction of a graph with `count` nodes: the part of each node, (count,) int.

    pairs: (B, 2) nodes. costs: (B,), what it costs to cut between them. Where two parts become one, the costs to each
    third part add up.
    """
    near = [{} for _ in range(count)]  # for each part the cost to each part that touches it
    for (a, b), cost in zip(pairs.tolist(), costs.tolist()):
        near[a][b] = near[b][a] = cost
    heap = [(-cost, a, b) for a in range(count) for b, cost in near[a].items() if a < b and cost > 0]
    heapq.heapify(heap)

    part = np.arange(count)
    while heap:
        gain, a, b = heapq.heappop(heap)
        if near[a].get(b) != -gain:
            continue  # the border has changed since
        del near[a][b], near[b][a]
        for c, cost in near[b].items():
            total = near[a].get(c, 0) + cost
            near[a][c] = near[c][a] = total
            del near[c][b]
            if total > 0:
                heapq.heappush(heap, (-total, a, c))
        near[b] = {}
        part[part == b] = a
    return np.unique(part, return_inverse=True)[1]
