"""minimask: Mask R-CNN from scratch, every number from pixel to mask in readable Python."""

from pathlib import Path

_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).parent / "kernels").exists() and (_root / "kernels" / "conv.py").exists():
    __path__.append(str(_root))  # a bare checkout, not installed: ../kernels is minimask.kernels

__version__ = "0.1.0"

from minimask import device as device  # noqa: E402
from minimask import functional as functional  # noqa: E402  (gives Tensor its operators)
from minimask.tensor import Function, Parameter, Tensor, no_grad  # noqa: E402

__all__ = ["Function", "Parameter", "Tensor", "device", "no_grad"]
