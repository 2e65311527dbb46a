"""The gradients on their way back through the graph, and who owns each array.

To understand `Tensor.backward`, think of a dict from tensor to array; everything else here saves memory. `a += b` needs
no new array, but changes `a` for everybody who holds it, and a gradient may be somebody else's array: Add hands the
same gy to both of its inputs. An array that nobody else holds is *owned*. Only owned arrays are added to in place,
overwritten by an operation, or kept as a leaf's `grad` without a copy.
"""

import operator

from minimask.device import accelerated


class Gradients:
    """For each tensor, the sum of the gradients that have arrived so far."""

    def __init__(self):
        self.arrays, self.owned = {}, set()  # both by the tensor's birth

    def __contains__(self, tensor):
        return tensor.birth in self.arrays

    def owns(self, tensor):
        return tensor.birth in self.owned

    def pop(self, tensor):
        return self.arrays.pop(tensor.birth)

    def add(self, tensor, gx, owned=False):
        """Add gx to what has arrived at a tensor. owned: nobody else holds gx."""
        if tensor in self:
            total = self.pop(tensor)
            if owned and not self.owns(tensor):  # then the sum may overwrite gx
                total, gx = gx, total
            gx = add_gradients(total, gx, owned or self.owns(tensor))
            owned = True
        self.arrays[tensor.birth] = gx
        if owned:
            self.owned.add(tensor.birth)

    def add_to_leaf(self, leaf):
        """Add what has arrived at a leaf to its `.grad`, in its buffer if it has one."""
        gx, owned = self.pop(leaf), self.owns(leaf)
        if leaf.grad is not None:
            gx, owned = leaf.grad + gx, True
        if owned:
            leaf.grad = gx
        elif leaf.grad_buffer is None:
            leaf.grad = gx.copy()
        else:
            leaf.grad_buffer[...] = gx
            leaf.grad = leaf.grad_buffer


@accelerated("add")
def add_gradients(a, b, in_place=False):
    """a + b of two arrays of one shape; in_place: the sum may overwrite a. Returns the sum."""
    return operator.iadd(a, b) if in_place else a + b
