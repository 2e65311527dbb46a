"""The machine: cards, threads, memory, CUDA graphs, several workers, kernels compiled ahead."""
