"""Fully connected layers on the GPU: the same 1x1 convolutions as on the CPU, see linear.py."""

from minimask.kernels.linear import linear_backward, linear_forward

__all__ = ["linear_backward", "linear_forward"]
