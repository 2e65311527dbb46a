# %% [markdown] slideshow={"slide_type": "slide"}
# # 01 Tensors and automatic differentiation
#
# **Question.** Mask R-CNN is a function of **44,401,393 numbers**, its weights. It is wrong. **Which of them should
# grow and which should shrink, and how much?**
#
# - Try each: change one weight a little, look again how wrong it is. At one second a look: **2.8 years**.
# - Today: all 44 million answers for the price of about three looks.

# %% [markdown] slideshow={"slide_type": "notes"}
# Let the room estimate first. "Try each" takes two looks a weight, one above and one below: 88.8 million seconds. What
# we build today is 200 lines of Python, and it is all that stands between NumPy and training a detector. Everything
# after this notebook rests on it.

# %%
import heapq
import inspect
import time

import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

from minimask import check, draw, mask_rcnn, optim, tensor
from minimask import functional as F
from minimask.tensor import Function, Parameter, Tensor, no_grad

plt.rcParams.update({"figure.figsize": (9, 4.5), "figure.dpi": 100, "font.size": 14})
plt.rcParams["figure.constrained_layout.use"] = True
ORANGE, SKY, RED, BLUE, GREEN = draw.COLORS[[0, 1, 2, 4, 6]] / 255

# %% [markdown]
# The number of the title comes out of the code (the model's parts are the subject of notebooks 03 to 10):

# %%
model = mask_rcnn.build("resnet50_fpn", num_classes=91)  # COCO's 80 classes have numbers up to 90; 0 is background
weights = sum(parameter.size for parameter in model.parameters())
years = 2 * weights / (365 * 24 * 3600)  # two looks a weight, one second each
print(f"{weights:,} weights, {years:.1f} years")
assert weights == 44_401_393 and round(years, 1) == 2.8
del model

# %% [markdown]
# **Words of this notebook**
#
# - *Loss*: one number that says how wrong the model is. Small is good.
# - *Derivative* of y with respect to x: how much y changes for each bit that x changes, $\partial y / \partial x$. A
#   derivative of 12 means: x grows by 0.001, so y grows by about 0.012.
# - *Gradient* of an array: the derivative of the loss with respect to each of its numbers; an array of the same shape.
#   In code the gradient of `x` is always called `gx`, that of `w` is `gw`, and so on.
# - *Parameter* or *weight*: a number that training changes. In code a `Parameter` is an array of them that asks for its
#   gradient.
# - *Layer*: one step of a network, most often a product with a matrix of weights. *Bias*: a weight that is added.
# - *Forward*: from inputs to the loss. *Backward*: from the loss to all gradients.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 From numbers to tensors
#
# A **tensor** is an array that remembers how it was made:
#
# - `data`: a NumPy array, with shape and dtype as usual,
# - `maker`: the operation that made it, with its inputs; `None` for a *leaf*,
# - `grad`: its gradient, once `backward` has reached it.

# %% tags=["show-input"] slideshow={"slide_type": "fragment"}
x = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
y = (x * x).sum()
print(y, "  its input was made by", y.maker.inputs[0].maker.name)

y.backward()
print("data", x.data, "  grad", x.grad)
assert y.item() == 1 + 4 + 9
assert x.grad.tolist() == [2, 4, 6]  # the derivative of x^2 is 2x

# %% [markdown] slideshow={"slide_type": "notes"}
# Nothing else is stored. Every later cell is about one question: how does `backward` get from y to x.grad, if all it
# has is this chain of makers?

# %% [markdown]
# A leaf that asks for a gradient (`requires_grad=True`) passes that on to everything computed from it. Integers cannot
# have a gradient: there is no "a little" between 2 and 3.

# %%
one, two = Tensor(np.ones(2)), Tensor(np.ones(2), requires_grad=True)
assert not (one + one).requires_grad and (one + two).requires_grad
try:
    Tensor(np.array([1, 2]), requires_grad=True)
except TypeError as error:
    print(error)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 One number by hand: forward
#
# The smallest model: prediction `p = w x + b`, loss `(p - t)^2`, with t the truth.
#
# w = 2, x = 3, b = 1: p = **7**. The truth is t = 5, the error is **2**, the loss is **4**.

# %%
w, b = Parameter(np.array(2.0)), Parameter(np.array(1.0))
x, t = Tensor(np.array(3.0)), Tensor(np.array(5.0))  # data: nobody asks for their gradients
product = w * x
p = product + b
e = p - t
loss = e**2
assert (product.item(), p.item(), e.item(), loss.item()) == (6, 7, 2, 4)

PLACES = {  # name: tensor, where it is drawn
    "w": (w, 0, 3), "x": (x, 0, 2), "b": (b, 2.2, 1.4), "t": (t, 4.4, 0.8),
    "w x": (product, 2.2, 2.5), "p": (p, 4.4, 2.1), "e": (e, 6.6, 1.7), "loss": (loss, 8.8, 1.7),
}  # fmt: skip


def draw_graph(axes, places, gradients=None):
    """Plumbing: a box for each tensor, arrows from the inputs of its maker; with the gradients, if there are any."""
    at = {node.birth: (x, y) for node, x, y in places.values()}
    for name, (node, x, y) in places.items():
        for source in node.maker.inputs if node.maker and node.maker.inputs else ():
            arrow = dict(arrowstyle="-|>", linewidth=2.5, mutation_scale=20, shrinkA=50, shrinkB=58, color="gray")
            axes.annotate("", (x, y), at[source.birth], arrowprops=arrow)
        text = f"{node.item():g}" if name.isdigit() else f"{name} = {node.item():g}"
        made = f"\n{node.maker.name}" if node.maker else ""
        look = dict(boxstyle="round,pad=0.3", facecolor="white", edgecolor=BLUE if node.maker else GREEN, linewidth=3)
        axes.text(x, y, text + made, ha="center", va="center", bbox=look, fontsize=18)
        if gradients and node.birth in gradients:
            axes.text(
                x,
                y - (0.38 if node.maker else 0.22),
                f"{gradients[node.birth]:+g}",
                ha="center",
                va="top",
                color=RED,
                fontsize=22,
            )
    axes.set(xlim=(-0.7, 9.6), ylim=(0.1, 3.5))
    axes.axis("off")


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, axes = plt.subplots(figsize=(11, 4.5))
draw_graph(axes, PLACES)
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# This is the *computation graph*. Green boxes are leaves, blue ones were made by an operation, whose name stands in the
# box. The picture was not drawn by hand: it was read off the tensors, by following maker and inputs from the loss back.
# Note the direction: a tensor knows its inputs, an input does not know where it is used.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 The chain rule: backward
#
# From right to left: **what comes back, times the operation's own derivative.**
#
# Power: 2e = **4**. Subtract and Add: times 1, **4**. Multiply: times x = 3 for w, **12**.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
by_hand = {"loss": 1, "e": 4, "p": 4, "w x": 4, "b": 4, "w": 12}
figure, axes = plt.subplots(figsize=(11, 4.6))
draw_graph(axes, PLACES, {PLACES[name][0].birth: gradient for name, gradient in by_hand.items()})

loss.backward()
assert w.grad == by_hand["w"] and b.grad == by_hand["b"]
assert x.grad is None and t.grad is None  # nobody asked
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# In formulas: d loss / d w = (d loss / d e) (d e / d p) (d p / d wx) (d wx / d w) = 2e · 1 · 1 · x. The chain rule says
# that the derivatives along a way are multiplied. What is clever is the order: from the loss backward, so each box does
# one multiplication, and all leaves get their gradient in one walk. Forward it would be one walk for each leaf.

# %% [markdown]
# `b` and `w` are told: grow, and the loss grows by 4 and 12 times as much. So both should shrink. Is 12 right? The
# definition of a derivative says: change w a little, and look.


# %%
def loss_at(w):
    return (w * 3 + 1 - 5) ** 2


little = 1e-4
slope = (loss_at(2 + little) - loss_at(2 - little)) / (2 * little)
print(f"w + {little}: the loss is {loss_at(2 + little):.5f}; slope {slope:.4f}")
assert abs(slope - 12) < 1e-6


# %% [markdown]
# Turn w, and the tangent turns: its slope is the gradient.


# %% widget=True
def draw_tangent(axes, w_now):
    """The loss over w, and the tangent at w_now with the slope that backward gives."""
    w = Parameter(np.array(w_now))
    (loss := (w * 3.0 + 1.0 - 5.0) ** 2).backward()
    at = np.linspace(0, 2.8, 100)
    axes.plot(at, loss_at(at), color=BLUE, linewidth=3)
    axes.plot(at, loss.item() + w.grad * (at - w_now), "--", color=RED, linewidth=3)
    axes.plot(w_now, loss.item(), "ko", markersize=12)
    axes.set(xlabel="w", ylabel="loss", ylim=(-3, 18), title=f"w = {w_now:.2f}\ngradient {w.grad:+.1f}")


def tangent(w=2.0):
    """One figure for one position of the slider."""
    draw_tangent(plt.subplots()[1], w)
    plt.show()


try:
    from ipywidgets import FloatSlider, interact

    interact(tangent, w=FloatSlider(min=0.2, max=2.6, step=0.1, value=2.0))
except ImportError:  # no widgets installed
    tangent()

# %% tags=["hide-input"]
figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), sharey=True)
for axes, w_now in zip(panels, (0.6, 4 / 3, 2.0)):  # at 4/3 the prediction is right
    draw_tangent(axes, w_now)
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 An operation: forward, and its derivative
#
# Each operation is a small class. Its docstring is its formula, its code is the formula again:

# %% tags=["show-input"] slideshow={"slide_type": "fragment"}
print(inspect.getsource(F.Multiply))

# %% [markdown] slideshow={"slide_type": "notes"}
# forward takes raw arrays and keeps what backward will need. backward takes gy, the gradient that comes back to the
# result, and returns one gradient for each input. `needs` says which inputs want one at all; `unbroadcast` is section
# 7. The operations in functional.py look like that, none longer than a screen. For functions of one number, such as exp
# or ReLU, one line has both formulas: y = f(x), and gx from gy and x or y.

# %% [markdown]
# **By hand.** y = a b with a = 2, b = 3. If a grows by 0.001, y grows by 0.003: the derivative with respect to a is b.
# If what comes back is gy = 10 (y matters ten times as much to the loss), then a hands on 10 · 3 = 30, and b 10 · 2 =
# 20.
#
# ### Exercise 1: backward of a product
#
# For arrays of one shape, element by element.


# %% exercise="multiply_backward"
def my_multiply_backward(gy, a, b):
    """The gradients (ga, gb) of a and b, if gy is the gradient of y = a * b; all arrays have one shape."""
    ### BEGIN SOLUTION
    return gy * b, gy * a
    ### END SOLUTION


# %% check="multiply_backward"
check.multiply_backward(my_multiply_backward)

# %% [markdown]
# The checks of this course say what is wrong. If you forget gy, you read:

# %%
try:
    check.multiply_backward(lambda gy, a, b: (1 * b, 1 * a))
except check.CheckFailed as failure:
    print(failure)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Which box first?
#
# A box may hand on its gradient only when **all** of it has arrived. Two ways lead back to `a`:
#
# `a = x·x`, `c = 3a`, `y = a + c`: a gets 1 from y, and 3 from c. Together **4**.
#
# **Inputs are older than outputs. So: always the youngest box first.**

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
x = Parameter(np.array(3.0))
a = x * x
c = a * 3.0
y = a + c
gradients = {y.birth: 1, c.birth: 1, a.birth: 1 + 3, x.birth: 4 * 2 * 3}
diamond = {"x": (x, 0, 1.7), "a": (a, 2.9, 1.7), "c": (c, 5.8, 2.7), "y": (y, 8.7, 1.7)}
three = c.maker.inputs[1]

figure, axes = plt.subplots(figsize=(11, 3.6))
draw_graph(axes, {**diamond, "3": (three, 2.9, 3.1)}, gradients)
for node, place, height in diamond.values():
    axes.text(place, height + 0.42, f"born {node.birth - x.birth + 1}", ha="center", fontsize=12)
y.backward()
assert x.grad == gradients[x.birth] == 24  # y = 4 x^2, so 8 x
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# If a came first, with only the 1 from y, it would hand on 1 · 6, and later again 3 · 6: right in the end, but all
# below a would be walked twice. With n such places in a row, 2^n times. The network of notebook 03 has 16: 65,536
# walks. "Born" is a counter that every tensor gets; the constant 3 was born too, between a and c. Sorting by birth is
# all that is needed.

# %% [markdown]
# Why "youngest first" is enough: what uses a tensor is younger than the tensor. So when a tensor is the youngest of
# those that wait, nobody is left who could still send it anything.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### The whole walk
#
# A *heap* is a list that hands out its smallest entry fast. With `-birth` that is the youngest.


# %% tags=["show-input"] slideshow={"slide_type": "fragment"}
def walk_back(result):
    order, gradients = [], {result.birth: np.ones(result.shape)}
    heap = [(-result.birth, result)]
    while heap:
        node = heapq.heappop(heap)[1]  # the youngest
        order.append(node)
        if node.maker:  # not a leaf
            sent = node.maker.backward(gradients[node.birth])
            for source, gx in zip(node.maker.inputs, sent):
                if gx is not None and source.birth not in gradients:
                    heapq.heappush(heap, (-source.birth, source))
                if gx is not None:
                    gradients[source.birth] = gradients.get(source.birth, 0) + gx
    return order, gradients


# %% [markdown] slideshow={"slide_type": "notes"}
# The library's `Tensor.backward` is this plus four things: gradients go to `.grad` of the leaves, errors are named, the
# history is freed on the way, and sums are made in place where nobody else holds the array. Open minimask/tensor.py
# beside the slides: 200 lines, in four parts: Tensor, its backward, Function, and unbroadcast, which comes next.

# %% [markdown]
# It agrees with the numbers of the picture, and visits each box once:

# %%
a = x * x
c = a * 3.0
y = a + c
order, found = walk_back(y)
assert [node is expected for node, expected in zip(order, (y, c, a, x))] == [True] * 4
assert [found[node.birth] for node in order] == [1, 1, 4, 24]


# %% [markdown]
# Without the order, by simply following every way to its end, each place where two ways meet doubles the work:


# %%
def visits_of_every_way(node, gy):
    """How many boxes are visited if each way back is followed by itself."""
    if node.maker is None:
        return 1
    pairs = zip(node.maker.inputs, node.maker.backward(gy))
    return 1 + sum(visits_of_every_way(source, gx) for source, gx in pairs)


lengths, every_way, by_birth = range(1, 13), [], []
for n in lengths:
    y = x
    for _ in range(n):
        y = y + y  # two ways from each box to the next
    every_way.append(visits_of_every_way(y, np.ones(())))
    by_birth.append(len(walk_back(y)[0]))
assert every_way == [2 ** (n + 1) - 1 for n in lengths]
assert by_birth == [n + 1 for n in lengths]

# %% tags=["hide-input"]
figure, axes = plt.subplots()
axes.semilogy(lengths, every_way, "o-", color=RED, linewidth=3, markersize=9, label="every way by itself")
axes.semilogy(lengths, by_birth, "s-", color=BLUE, linewidth=3, markersize=9, label="youngest first")
axes.set(xlabel="n times y = y + y", ylabel="boxes visited", xticks=lengths)
axes.legend()
axes.grid(alpha=0.4)
plt.show()

# %% [markdown]
# ### Exercise 2: backward on any graph
#
# Boxes are numbered by birth. `inputs[k]` are the numbers of the inputs of box k (none for a leaf), `slopes[k]` the
# derivatives of box k with respect to each of them. Return the derivative of the **last** box with respect to every
# box.
#
# The diamond above is `inputs = [(), (0, 0), (1,), (1, 2)]` and `slopes = [(), (3, 3), (3,), (1, 1)]`, with the result
# `[24, 4, 1, 1]`.


# %% exercise="graph_gradients"
def my_graph_gradients(inputs, slopes):
    """The derivative of the last box with respect to each box: an array with a number for each."""
    ### BEGIN SOLUTION
    gradients = np.zeros(len(inputs))
    gradients[-1] = 1
    for k in reversed(range(len(inputs))):  # the youngest first
        for source, slope in zip(inputs[k], slopes[k]):
            gradients[source] += slope * gradients[k]
    return gradients
    ### END SOLUTION


# %% check="graph_gradients"
check.graph_gradients(my_graph_gradients)

# %%
assert my_graph_gradients([(), (0, 0), (1,), (1, 2)], [(), (3, 3), (3,), (1, 1)]).tolist() == [24, 4, 1, 1]

# %% [markdown]
# ## 6 `minimask/tensor.py`, read whole
#
# Four parts: the tensor; its `backward`, the walk; `Function`, which runs `forward` and remembers the inputs; and
# `unbroadcast` (section 7).

# %%
source = inspect.getsource(tensor)
print(len(source.splitlines()), "lines")
assert len(source.splitlines()) < 250
print(source[: source.index("class Tensor:")])  # the header, and no_grad

# %% [markdown]
# `no_grad` is a switch: inside of `with no_grad():` operations do not remember their inputs. That is for *inference*,
# the use of a trained model, where no backward will come and memory should be free again.
#
# The tensor itself:

# %%
print(inspect.getsource(tensor.Tensor).partition("    def backward")[0])

# %% [markdown]
# `__slots__` is a fixed list of attributes: no tensor can have others, which saves memory. `_births` counts: 0, 1, 2,
# ...
#
# The walk. Compare it with `walk_back`:

# %%
print(inspect.getsource(Tensor.backward))

# %% [markdown]
# What is more than in `walk_back`:
#
# - **`gradient`**: backward of a result that is not one number needs to be told how much each of its numbers matters.
# - **`add_to_leaf`**: gradients **add up** over calls, until `zero_grad()` clears them (section 13).
#   Then the examples of one step may come in two halves.
# - **`input_gradients`** calls the operation's `backward`, checks the shapes, and then clears what the operation kept:
#   in training, memory is full of these arrays. They are freed while the walk goes on, not after it.
# - **`Gradients`** (`machine/gradients.py`) is the walk's dict from tensor to array. It also knows who owns an array:
#   `a += b` needs no new array, but changes `a` for everybody who has it, and a gradient may be somebody else's array
#   (Add hands the same gy to both inputs). So the first sum makes a new array, and that one is *owned* and may be added
#   to in place. An operation that promises new arrays (`fresh`) gives owned ones from the start. `overwrite` tells an
#   operation that it may write its result over the gradient it gets.
# - **`grad_buffer`**: where an optimizer that works on a graphics card (GPU) wants a parameter's gradient. On the
#   processor (CPU) it is `None`.
#
# And the operations:

# %%
print(inspect.getsource(Parameter))
print(inspect.getsource(Function))

# %% [markdown]
# `F.Multiply()(a, b)` makes an object (one for each call, for it keeps a and b), calls its `forward`, and, if anybody
# needs a gradient, ties the result to it: `result.maker = self`, `self.inputs = tensors`. That is the graph.
#
# A history can be used once:

# %%
y = (x * x) + 1.0
y.backward()
try:
    y.backward()
except RuntimeError as error:
    print(error)

with no_grad():
    assert (x * x).maker is None  # no history at all

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Broadcasting, undone
#
# NumPy adds a bias of shape `(3,)` to each of four rows: it is **copied** four times. Backward the copies' gradients
# are **added**: one number had four effects.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
rows, bias = Tensor(np.arange(12.0).reshape(4, 3) / 10), Parameter(np.array([0.0, 1.0, 2.0]))
y = rows + bias
gy = np.array([[1.0, 0, 2], [1, 1, 0], [3, 0, 1], [0, 2, 1]])
y.backward(gy)
assert bias.grad.tolist() == gy.sum(axis=0).tolist() == [5, 3, 4]


def draw_array(axes, array, left, top, color, title):
    """Plumbing: the numbers of an array (rows, columns) in squares."""
    for (i, j), value in np.ndenumerate(array):
        axes.add_patch(plt.Rectangle((left + j, top + i), 1, 1, facecolor=color, edgecolor="black", alpha=0.6))
        axes.text(left + j + 0.5, top + i + 0.5, f"{value:g}", ha="center", va="center", fontsize=20)
    axes.text(left + array.shape[1] / 2, top - 0.25, title, ha="center", fontsize=17)


figure, axes = plt.subplots(figsize=(10, 4.6))
draw_array(axes, bias.data[None], 0, 0, GREEN, "bias (3,)")
draw_array(axes, np.tile(bias.data, (4, 1)), 0, 2, "lightgray", "")
axes.text(1.5, 1.6, "forward: copied", ha="center", color=BLUE, fontsize=17)
draw_array(axes, gy, 6, 2, "lightgray", "gy (4, 3)")
draw_array(axes, bias.grad[None], 6, 0, ORANGE, "gradient of the bias (3,)")
axes.annotate(
    "backward:\nadded",
    (9.2, 0.5),
    (10.6, 4),
    color=RED,
    fontsize=17,
    ha="center",
    arrowprops=dict(arrowstyle="-|>", linewidth=3, color=RED, connectionstyle="arc3,rad=0.4"),
)
axes.set(xlim=(-0.5, 12), ylim=(6.2, -0.9))
axes.axis("off")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Read the middle column: gy says that the loss grows by 0, 1, 0 and 2 for each bit that its four elements grow. If the
# one bias of that column grows, all four grow. So its gradient is 0 + 1 + 0 + 2 = 3. Not the average, and not one of
# them. In the library one function does that for all operations.

# %% [markdown]
# ### Exercise 3: undo broadcasting
#
# NumPy broadcasts by two rules: missing axes are added **in front**, and axes of length 1 are copied to the length that
# is needed. Undo both: sum over the axes in front that `shape` does not have, and over those where it has 1.


# %% exercise="unbroadcast"
def my_unbroadcast(gradient, shape):
    """`gradient` summed over the axes that broadcasting added or copied, so that it has `shape`."""
    ### BEGIN SOLUTION
    extra = gradient.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(i + extra for i, n in enumerate(shape) if n == 1)
    return gradient.sum(axis=axes, keepdims=True).reshape(shape)
    ### END SOLUTION


# %% check="unbroadcast"
check.unbroadcast(my_unbroadcast)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 The matrix product
#
# Layers are matrix products: $\quad y_{mn} = \sum_k a_{mk}\, b_{kn}$
#
# $a_{mk}$ goes into all of row m of y, with the factors $b_{k1}, b_{k2}, \dots$:
# $\quad (g_a)_{mk} = \sum_n (g_y)_{mn}\, b_{kn}$
#
# That is a matrix product again:
#
# $$g_a = g_y\, b^\top \qquad\qquad g_b = a^\top g_y$$
#
# The shapes leave no other choice: (M, N) (N, K) = (M, K).

# %% [markdown] slideshow={"slide_type": "notes"}
# A good habit: write down the shapes first. gy is (M, N), b is (K, N), ga must be (M, K). The only product of the two
# that has this shape is gy b^T. Backward costs two products of the size of the forward one: this is where "three looks"
# on the title slide comes from. Convolution, notebook 02, is a matrix product in disguise.

# %% [markdown]
# **By hand.** $a = (1\;\;2)$, $b = \binom{3}{4}$, $y = 1 \cdot 3 + 2 \cdot 4 = 11$, $g_y = 1$: then
# $g_a = (3\;\;4) = b^\top$, $g_b = \binom{1}{2} = a^\top$.
#
# ### Exercise 4: backward of a matrix product


# %% exercise="matmul_backward"
def my_matmul_backward(gy, a, b):
    """The gradients (ga, gb) of a (M, K) and b (K, N), if gy (M, N) is the gradient of y = a @ b."""
    ### BEGIN SOLUTION
    return gy @ b.T, a.T @ gy
    ### END SOLUTION


# %% check="matmul_backward"
check.matmul_backward(my_matmul_backward)

# %% [markdown]
# What does backward cost? A stack of matrix products, timed. Forward is one product a layer, backward two.

# %%
rng = np.random.default_rng(0)
layers = [Parameter(rng.standard_normal((512, 512)).astype(np.float32) / 23) for _ in range(6)]  # 23: root of 512
batch = Tensor(rng.standard_normal((512, 512)).astype(np.float32))


def forward():
    y = batch
    for layer in layers:
        y = y @ layer
    return y.sum()


def seconds(function, repeats=7):
    """The shortest of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


with threadpool_limits(1):  # one thread: other programs on this machine disturb the clock less
    one_way = seconds(forward)
    both_ways = seconds(lambda: forward().backward())
print(
    f"forward {1000 * one_way:.1f} ms, forward and backward {1000 * both_ways:.1f} ms: {both_ways / one_way:.1f} times"
)
assert both_ways < 10 * one_way  # whatever the number of weights: here 1.6 million
assert sum(layer.size for layer in layers) == 1_572_864

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 Is a gradient right? Ask the definition
#
# $$\frac{\partial f}{\partial x} \approx \frac{f(x + h) - f(x - h)}{2h}$$
#
# How small should h be? **Not as small as possible.**

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
steps = 10.0 ** np.arange(-15, 0.1, 0.5)
truth = np.exp(1.0)  # f = e^x at 1 is its own derivative
errors = {
    "one side, float64": [abs((np.exp(1 + h) - np.exp(1)) / h - truth) for h in steps],
    "both sides, float64": [abs((np.exp(1 + h) - np.exp(1 - h)) / (2 * h) - truth) for h in steps],
}
single = [np.float32(h) for h in steps]
one = np.float32(1)
errors["both sides, float32"] = [abs((np.exp(one + h) - np.exp(one - h)) / (2 * h) - truth) for h in single]

figure, axes = plt.subplots()
for (name, error), color, style in zip(errors.items(), (ORANGE, BLUE, RED), ("--", "-", ":")):
    axes.loglog(steps, np.maximum(error, 1e-13), style, color=color, linewidth=4, label=name)
axes.set(xlabel="step h", ylabel="error of the derivative", ylim=(1e-12, 10))
axes.legend(loc="lower left")
axes.grid(alpha=0.4)
best = {name: steps[np.argmin(error)] for name, error in errors.items()}
assert 1e-7 < best["both sides, float64"] < 1e-4
assert min(errors["both sides, float64"]) < 1e-9 < min(errors["one side, float64"])
assert min(errors["both sides, float32"]) > 1e-6  # so gradients are checked in float64
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# From the right: smaller steps are better, because the function looks straighter; both sides beat one side, as their
# errors of the second order cancel. From the left: f(x+h) and f(x-h) agree in nearly all their digits, and the
# difference keeps only the last few, which are rounding. In float64 with both sides 1e-5 or 1e-6 is best; in float32
# one gets three digits at most. So gradients are always checked in float64.

# %% [markdown]
# For a result that is not one number, we need one number to differentiate. We take the sum of the result, each element
# times a number of our choice, the **cotangent** c: $\sum_i c_i\, y_i$. Its gradient is what `y.backward(c)` computes.
#
# ### Exercise 5: a gradient by finite differences
#
# Change each element of x by one step up and down. Leave x itself as it is.


# %% exercise="numeric_gradient"
def my_numeric_gradient(f, x, cotangent, step):
    """The gradient of (f(x) * cotangent).sum() with respect to each element of x, from both sides: shape of x."""
    ### BEGIN SOLUTION
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = ((f(above) - f(below)) * cotangent).sum() / (2 * step)
    return gradient
    ### END SOLUTION


# %% check="numeric_gradient"
check.numeric_gradient(my_numeric_gradient)

# %% [markdown]
# With it any gradient can be checked, also that of the matrix product of exercise 4:

# %%
rng = np.random.default_rng(1)
a, b, gy = rng.standard_normal((2, 3)), rng.standard_normal((3, 4)), rng.standard_normal((2, 4))
ga, gb = my_matmul_backward(gy, a, b)
np.testing.assert_allclose(ga, my_numeric_gradient(lambda a: a @ b, a, gy, 1e-6), atol=1e-8)
np.testing.assert_allclose(gb, my_numeric_gradient(lambda b: a @ b, b, gy, 1e-6), atol=1e-8)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 Why a random cotangent, and not just `.sum()`
#
# **Softmax** turns numbers into shares: $y_i = e^{x_i} / \sum_j e^{x_j}$. They always add up to **1**.
#
# So the gradient of the plain sum is **0**, and a backward that returns zeros passes the test.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
x = np.array([1.0, 2.0, 0.0, -1.0])
random = np.random.default_rng(3).standard_normal(4)
figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
for axes, cotangent, title in zip(panels, (np.ones(4), random), ("plain sum: all cotangents 1", "random cotangents")):
    definition = my_numeric_gradient(F.softmax_array, x, cotangent, 1e-6)
    softmax = F.Softmax(-1)
    softmax.forward(x)
    axes.bar(np.arange(4) - 0.2, definition, 0.38, color=GREEN, label="by the definition")
    axes.bar(np.arange(4) + 0.2, -softmax.backward(cotangent)[0], 0.38, color=RED, label="a wrong sign")
    axes.axhline(0, color="black", linewidth=1)
    axes.set(title=title, xlabel="element of x", xticks=range(4))
    wrong_sign_passes = np.allclose(definition, -softmax.backward(cotangent)[0], atol=1e-8)
    assert wrong_sign_passes == (cotangent is not random)
panels[0].set_ylabel("gradient")
panels[0].text(1.5, 0.1, "all of them are 0", ha="center", fontsize=18)
panels[1].legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# On the left there is nothing to see, and that is the point: with the plain sum the wrong sign, zeros, or a factor of
# 1000 all pass. On the right the wrong sign is plain. A random cotangent asks for all directions at once.
# Normalizations (notebook 03), which shift numbers so that their mean is always 0, have the same trap.

# %% [markdown]
# **The gradient of softmax.** Every $y_i$ depends on every $x_k$: $\partial y_i / \partial x_k = y_i (\delta_{ik} -
# y_k)$, where $\delta_{ik}$ is 1 if i = k and 0 if not. Multiplied with gy and summed over i:
#
# $$ (g_x)_k = y_k \Big( (g_y)_k - \sum_i (g_y)_i\, y_i \Big) $$
#
# **By hand.** y = (0.25, 0.75), gy = (1, 0): the sum is 0.25, so gx = (0.25 · 0.75, 0.75 · (-0.25)) = (0.1875,
# -0.1875).
#
# ### Exercise 6: backward of softmax
#
# Over the last axis: each row is a softmax of its own.


# %% exercise="softmax_backward"
def my_softmax_backward(gy, y):
    """The gradient of x, if gy is the gradient of y = softmax(x) over the last axis; all have one shape."""
    ### BEGIN SOLUTION
    return y * (gy - (gy * y).sum(axis=-1, keepdims=True))
    ### END SOLUTION


# %% check="softmax_backward"
check.softmax_backward(my_softmax_backward)

# %%
np.testing.assert_allclose(my_softmax_backward(np.array([1.0, 0.0]), np.array([0.25, 0.75])), [0.1875, -0.1875])

# %% [markdown]
# Its sister is $\log \sum_j e^{x_j}$ (*log-sum-exp*), which the losses need (notebook 11). Its gradient **is** softmax.
# And both overflow if one writes them down naively: $e^{1000}$ is too large for a computer. To subtract the largest x
# first changes nothing but that.

# %%
x = Parameter(np.array([1.0, 2.0, 0.0, -1.0]))
F.log(F.exp(x).sum()).backward()
np.testing.assert_allclose(x.grad, F.softmax_array(x.data))

large = np.array([1000.0, 1001.0])
with np.errstate(all="ignore"):
    naive = np.log(np.exp(large).sum())
print("naive", naive, "  with the largest subtracted", large.max() + np.log(np.exp(large - large.max()).sum()))
assert np.isinf(naive)
np.testing.assert_allclose(F.softmax_array(large), F.softmax_array(large - 1000))

# %% [markdown]
# ## 11 Your own operation: Swish
#
# $y = x\,\sigma(x)$, with the *sigmoid* $\sigma(x) = 1 / (1 + e^{-x})$. A smooth relative of ReLU, $\max(x, 0)$.
#
# Product rule, and $\sigma' = \sigma\,(1 - \sigma)$: $\quad g_x = g_y \big(\sigma + x\,\sigma\,(1 - \sigma)\big)$

# %% tags=["hide-input"]
x = Tensor(np.linspace(-6, 6, 241), requires_grad=True)
y = x * F.sigmoid(x)
y.backward(np.ones(241))
figure, axes = plt.subplots(figsize=(9, 4.2))
axes.plot(x.data, np.maximum(x.data, 0), "--", color="gray", linewidth=3, label="ReLU")
axes.plot(x.data, y.data, color=BLUE, linewidth=4, label="Swish")
axes.plot(x.data, x.grad, ":", color=RED, linewidth=4, label="derivative of Swish")
axes.set(xlabel="x", ylim=(-0.6, 3), xlim=(-6, 4))
axes.legend()
axes.grid(alpha=0.4)
assert y.data.min() < -0.27 and x.grad[120] == 0.5  # it dips below 0; at 0 its slope is a half
plt.show()

# %% [markdown]
# Ramachandran et al. 2017. The curves were made by the library from two operations it knows, a product and a sigmoid.
# As one operation of its own it is one box in the graph instead of two. The exercise is to write it.

# %% [markdown]
# ### Exercise 7: write the operation
#
# Fill in both methods. The function below them is complete: it runs your operation on a tensor, forward and backward.


# %% exercise="swish"
class Swish(Function):
    """y = x sigmoid(x);  gx = gy (s + x s (1 - s)) with s = sigmoid(x)."""

    def forward(self, x):
        """Keep what backward needs as attributes of self, and return y."""
        ### BEGIN SOLUTION
        self.x, self.s = x, F.sigmoid_array(x)
        return x * self.s
        ### END SOLUTION

    def backward(self, gy):
        """Return a tuple with one gradient, gx."""
        ### BEGIN SOLUTION
        return (gy * (self.s + self.x * self.s * (1 - self.s)),)
        ### END SOLUTION


def my_swish(x, gy):
    """The result y of Swish for an array x, and the gradient gx if gy comes back."""
    leaf = Tensor(x, requires_grad=True)
    result = Swish()(leaf)
    result.backward(gy)
    return result.data, leaf.grad


# %% check="swish"
check.swish(my_swish)

# %%
x, gy = np.linspace(-3, 3, 7), np.random.default_rng(4).standard_normal(7)
np.testing.assert_allclose(
    my_swish(x, gy)[1], my_numeric_gradient(lambda x: x * F.sigmoid_array(x), x, gy, 1e-6), atol=1e-8
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 12 Downhill: fit a line
#
# Two parameters, w and b. Twenty points. The loss is the mean of $(w x + b - t)^2$.
#
# **Gradient descent**: compute the gradient, take a small step against it, repeat. How small says the *learning rate*
# `lr`: $p \leftarrow p - lr \cdot g$.

# %%
rng = np.random.default_rng(5)
points = rng.uniform(-2, 2, 20)
truths = 1.5 * points - 0.5 + 0.3 * rng.standard_normal(20)


def line_loss(w, b, chosen=slice(None)):
    """The mean squared error of the line, of all points or of the chosen ones."""
    error = w * points[chosen] + b - truths[chosen]
    return (error * error).mean()


# %%
def descend(lr, steps, start=(-1.0, 2.0)):
    """The way (steps + 1, 2) of (w, b) down from start."""
    w, b = Parameter(np.array(start[0])), Parameter(np.array(start[1]))
    way = [start]
    for _ in range(steps):
        w.grad = b.grad = None
        line_loss(w, b).backward()
        w.data = w.data - lr * w.grad
        b.data = b.data - lr * b.grad
        way.append((w.item(), b.item()))
    return np.array(way)


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
way = descend(lr=0.1, steps=40)
slope, offset = np.polyfit(points, truths, 1)  # the best line, by a formula
np.testing.assert_allclose(way[-1], [slope, offset], atol=2e-3)


def draw_hills(axes, way, title="", color=ORANGE):
    """Plumbing: contour lines of the line's loss over w and b, and a way on it."""
    w, b = np.meshgrid(np.linspace(-2, 4, 61), np.linspace(-3, 3, 61))
    heights = np.mean([(w * x + b - t) ** 2 for x, t in zip(points, truths)], axis=0)
    axes.contour(w, b, heights, levels=np.geomspace(0.1, 30, 14), colors="gray", linewidths=1)
    axes.plot(*way.T, "o-", color=color, linewidth=2.5, markersize=5)
    axes.plot(slope, offset, "k*", markersize=18)
    axes.set(xlim=(-2, 4), ylim=(-3, 3), xlabel="w", ylabel="b", title=title)


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5))
left.plot(points, truths, "ko", markersize=8)
for step, color in ((0, RED), (3, ORANGE), (40, GREEN)):
    left.plot([-2, 2], way[step, 0] * np.array([-2, 2]) + way[step, 1], color=color, linewidth=3, label=f"step {step}")
left.set(xlabel="x", ylabel="t", ylim=(-5, 5))
left.legend()
draw_hills(right, way, "the loss as a landscape")
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Every point of the right picture is a line in the left one. The gray rings are lines of equal loss, the star is the
# best line, which for this small problem is known by a formula. The steps get shorter on their own: the gradient gets
# smaller as the valley flattens. Training a detector is this picture with 44 million axes instead of two.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### How long a step? The learning rate
#
# The same start, 12 steps: too short, good, too long.

# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, panels = plt.subplots(1, 3, figsize=(11, 4.2), sharey=True)
left_over = []
for axes, lr, color in zip(panels, (0.01, 0.2, 0.75), (BLUE, GREEN, RED)):
    way = descend(lr, steps=12)
    draw_hills(axes, way, f"learning rate {lr:g}", color)
    left_over.append(np.linalg.norm(way[-1] - [slope, offset]))
assert left_over[1] < 0.1 < 1 < left_over[0] and left_over[2] > np.linalg.norm(np.subtract((-1, 2), (slope, offset)))
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Too long a step jumps over the valley and lands higher on the other side: the loss grows, in the end to infinity and
# to NaN, "not a number", which is what infinity minus infinity gives. Where is the limit? Along a direction in which
# the slope changes by k for each bit of way, it is a learning rate of 2/k. So the steepest direction dictates the rate,
# and all others are slow. That is the problem that momentum addresses.


# %% widget=True
def hills(lr=0.2, steps=12):
    """One figure for one position of the sliders."""
    draw_hills(plt.subplots(figsize=(6, 5))[1], descend(lr, steps), f"learning rate {lr:g}")
    plt.show()


try:
    from ipywidgets import FloatSlider, IntSlider, interact

    interact(hills, lr=FloatSlider(min=0.01, max=0.8, step=0.01, value=0.2), steps=IntSlider(min=1, max=40, value=12))
except ImportError:  # no widgets installed
    hills()

# %% [markdown]
# (Without sliders: the three pictures above.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 13 SGD and momentum
#
# **SGD**, *stochastic* gradient descent: the gradient of a few examples drawn at random. Cheap, but noisy.
#
# **Momentum**: roll like a ball, with velocity v. `v = m v + g`, then `p = p - lr v`. Zigzag cancels, what stays adds
# up.

# %%
STEEP = np.array([1.0, 40.0])  # a long valley: 40 times as steep across as along


def valley_way(momentum, lr=0.045, steps=30):
    """The way (steps + 1, 2) down the loss p0^2 / 2 + 40 p1^2 / 2, by the library's optimizer."""
    p = Parameter(np.array([-9.0, 1.0]))
    optimizer = optim.SGD([p], lr=lr, momentum=momentum, weight_decay=0.0)  # weight decay: notebook 12
    way = [p.data.copy()]
    for _ in range(steps):
        optimizer.zero_grad()
        (p * p * (STEEP / 2)).sum().backward()
        optimizer.step()
        way.append(p.data.copy())
    return np.array(way)


def noisy_way(size, lr=0.1, steps=60):
    """Gradient descent on the line where each step sees `size` of the twenty points."""
    rng = np.random.default_rng(6)
    w, b = Parameter(np.array(-1.0)), Parameter(np.array(2.0))
    optimizer = optim.SGD([w, b], lr=lr, momentum=0.0, weight_decay=0.0)
    way = [(w.item(), b.item())]
    for _ in range(steps):
        optimizer.zero_grad()
        line_loss(w, b, rng.choice(20, size, replace=False)).backward()
        optimizer.step()
        way.append((w.item(), b.item()))
    return np.array(way)


# %% tags=["hide-input"] slideshow={"slide_type": "fragment"}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.3), width_ratios=[1, 1.6])
draw_hills(left, noisy_way(20), color=BLUE)
draw_hills(left, noisy_way(1), "20 points (blue), 1 (orange)", ORANGE)
left.set(xlim=(0.2, 2.8), ylim=(-1.9, 0.7))
across, along = np.meshgrid(np.linspace(-10, 4, 100), np.linspace(-1.6, 1.6, 100))
right.contour(
    across, along, across**2 / 2 + 20 * along**2, levels=np.geomspace(0.3, 90, 10), colors="gray", linewidths=1
)
ways = {0.0: valley_way(0.0), 0.6: valley_way(0.6)}
for (momentum, way), color, style in zip(ways.items(), (RED, GREEN), ("o--", "s-")):
    right.plot(*way.T, style, color=color, linewidth=2.5, markersize=5, label=f"momentum {momentum:g}")
right.set(title="a long valley, 30 steps", xlabel="along (flat)", ylabel="across (steep)")
right.legend(loc="upper right")
far = {momentum: np.linalg.norm(way[-1]) for momentum, way in ways.items()}
assert far[0.6] < 0.5 < 2 < far[0.0]
plt.show()

# %% [markdown] slideshow={"slide_type": "notes"}
# Left, near the minimum: with one point a step the way trembles, also at the end, but it goes where the whole gradient
# goes, for a twentieth of the work. That is why training makes the learning rate small at the end (notebook 12). Right:
# across the valley the gradient changes its sign at every step, so in the velocity it cancels; along the valley it
# always points the same way and adds up, to 1 / (1 - momentum) times a step. Detectors are trained with momentum 0.9.

# %% [markdown]
# **By hand.** p = 1, gradient 2, velocity 10, learning rate 0.1, momentum 0.9: the velocity becomes 0.9 · 10 + 2 = 11,
# and p becomes 1 - 0.1 · 11 = -0.1.
#
# ### Exercise 8: a step of SGD with momentum


# %% exercise="momentum_step"
def my_momentum_step(p, g, velocity, lr, momentum):
    """The new p and the new velocity after one step of learning rate lr with gradient g, as new arrays."""
    ### BEGIN SOLUTION
    velocity = momentum * velocity + g
    return p - lr * velocity, velocity
    ### END SOLUTION


# %% check="momentum_step"
check.momentum_step(my_momentum_step)

# %% [markdown]
# Thirty of your steps are the library's way down the valley:

# %%
p, velocity = np.array([-9.0, 1.0]), np.zeros(2)
for expected in ways[0.6][1:]:
    p, velocity = my_momentum_step(p, STEEP * p, velocity, 0.045, 0.6)
    np.testing.assert_allclose(p, expected, atol=1e-12)

# %% [markdown]
# ## 14 Common misconceptions
#
# ### "The gradient points to the minimum"
#
# It points to where the loss grows fastest *here*. In a long valley that is across it, nearly at a right angle to the
# way to the minimum:

# %%
p = np.array([-9.0, 1.0])
downhill, to_the_minimum = -STEEP * p, -p
cosine = downhill @ to_the_minimum / np.linalg.norm(downhill) / np.linalg.norm(to_the_minimum)
print(f"the angle between them: {np.degrees(np.arccos(cosine)):.0f} degrees")
assert np.degrees(np.arccos(cosine)) > 60

# %% [markdown]
# ### "backward sets the gradient"
#
# It adds to it. Whoever forgets `zero_grad()` makes steps with the sum of all gradients so far.

# %%
w = Parameter(np.array(2.0))
for _ in range(3):
    (w * 5.0).backward()
print("after three times backward:", w.grad)
assert w.grad == 3 * 5

# %% [markdown]
# ### "A smaller step makes finite differences more exact"

# %%
for h in (1e-5, 1e-15):
    print(f"h = {h:g}: {(np.exp(1 + h) - np.exp(1 - h)) / (2 * h):.6f}, truth {np.exp(1):.6f}")
assert abs((np.exp(1 + 1e-15) - np.exp(1 - 1e-15)) / 2e-15 - np.exp(1)) > 0.05

# %% [markdown]
# ### "ReLU has no derivative at 0, so it cannot be used"
#
# At exactly 0 the library takes 0, the derivative from the left; finite differences find 1/2 there, the middle of both
# sides. That one point does not matter for training; but it matters for a check, which must keep away from it.

# %%
x = Parameter(np.array([0.0]))
F.relu(x).backward(np.ones(1))
numeric = my_numeric_gradient(lambda x: np.maximum(x, 0), np.array([0.0]), np.ones(1), 1e-6)
print("backward", x.grad[0], "  finite differences", numeric[0].round(6))
assert x.grad[0] == 0 and np.isclose(numeric[0], 0.5)

# %% [markdown]
# ### "Automatic differentiation is finite differences" or "is formulas, as a computer algebra system has them"
#
# Neither. It computes numbers, with the exact derivative of each operation: no step h, and no formula for the whole.
# A Python loop or an `if` in between does not disturb it, for only what was really computed is in the graph:

# %%
x = Parameter(np.array(3.0))
y = x
while y.item() < 50:  # how often, depends on x
    y = y * x
y.backward()
print("3 to the power of 4 is", y.item(), " derivative", x.grad)
assert (y.item(), x.grad) == (81, 4 * 27)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Recap
#
# 1. A tensor is an array that remembers its maker; makers and inputs are the computation graph.
# 2. Backward: at each operation, what comes back times the operation's own derivative; where ways meet, add.
# 3. The youngest box first: then all of its gradient has arrived, and each box is visited once.
# 4. What was copied forward is summed backward. A gradient is checked in float64, with random cotangents.
# 5. Train: step against the gradient of a few examples; momentum evens out the zigzag.

# %% [markdown]
# ## Quiz
#
# 1. y = 5 a b, a = 2, b = 3. What are the gradients of a and b for gy = 1?
# 2. Why does a tensor know its inputs, but not its users?
# 3. Why must the youngest box go first, and not, say, the one nearest to the loss?
# 4. y = x + x. Which gradient does x get, and what would `=` instead of `+=` give?
# 5. A bias (64,) is added to an array (8, 32, 32, 64). How many numbers are summed for each of its gradients?
# 6. a is (10, 20), b is (20, 30). What is the shape of the gradient of b, and how is it computed?
# 7. Why are gradients checked in float64 with a step of about 1e-6?
# 8. Name an operation other than softmax for which a plain sum passes a broken backward.
# 9. What does memory hold during the forward pass of training that it does not hold in inference?
# 10. With momentum 0.9 and a gradient that stays the same, how long is a step in the end, compared with no momentum?
#
# <details><summary>Answers</summary>
#
# 1. 15 and 10.
# 2. Backward walks from the result to the inputs; and a user that is not needed any more can be freed.
# 3. "Nearest" is not enough: a short way and a long way may lead to one box, and the long way's gradient comes later.
#    Everything that uses a box is younger than the box.
# 4. 2 gy; with `=` only gy.
# 5. 8 · 32 · 32 = 8192.
# 6. (20, 30), as b: a transposed, times gy (10, 30).
# 7. The difference of two nearly equal numbers keeps few digits; float64 has 16, and 1e-6 is near the best compromise.
# 8. To subtract the mean: the results always add up to 0, so the gradient of their sum is 0.
# 9. What the operations keep for backward: nearly every intermediate result.
# 10. Ten times as long: 1 + 0.9 + 0.81 + ... = 10.
#
# </details>
