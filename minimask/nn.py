"""Modules: parameters with names, layers, initializers. Names and behavior follow torch.nn, layouts are NHWC
and HWIO.
"""

import contextlib

import numpy as np

from minimask import device as device_module
from minimask import functional as F
from minimask.convolution import conv2d, conv_transpose2d
from minimask.errors import InputError
from minimask.normalization import batch_norm, constant_scale_and_shift, group_norm
from minimask.tensor import Parameter, no_grad


class Module:
    """Holds parameters, buffers (arrays that are saved but not trained) and other modules, under their
    attribute names.
    """

    training = True
    buffer_names = ()

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def children(self):
        """(name, module) of each direct part, in the order they were assigned."""
        return [(name, value) for name, value in vars(self).items() if isinstance(value, Module)]

    def modules(self):
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix=""):
        """(name, Parameter) of this module and all below it: `layer1.0.conv1.weight`."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")

    def parameters(self):
        """All parameters that are trained."""
        return [p for _, p in self.named_parameters() if p.requires_grad]

    def named_buffers(self, prefix=""):
        """(name, module, attribute) of each array that is saved but not trained."""
        for name in self.buffer_names:
            yield prefix + name, self, name
        for name, child in self.children():
            yield from child.named_buffers(f"{prefix}{name}.")

    def state_dict(self):
        """name -> array of every parameter and buffer (the arrays themselves, not copies)."""
        state = {name: p.data for name, p in self.named_parameters()}
        state.update({name: getattr(module, attribute) for name, module, attribute in self.named_buffers()})
        return state

    def load_state_dict(self, state):
        """Copy the arrays of `state` in. Every name must be there with its shape, and no other; else
        InputError, nothing changed.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        unknown = [name for name in state if name not in own]
        if missing or unknown:
            raise InputError(
                f"the weights do not fit the model: {len(missing)} missing (first {missing[:3]}), "
                f"{len(unknown)} unknown (first {unknown[:3]})"
            )
        for name, array in own.items():
            if array.shape != state[name].shape:
                raise InputError(
                    f"the weights do not fit the model: {name} must be {array.shape}, got {state[name].shape}"
                )
        for name, array in own.items():
            array[...] = device_module.to(state[name], device_module.device_of(array))

    def train(self, mode=True):
        """Training behavior (batch statistics) or not, for this module and all below it."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Inference behavior (running statistics)."""
        return self.train(False)

    @contextlib.contextmanager
    def inference(self):
        """Inside: inference behavior and no gradients. Afterwards every module is in the mode it was in before."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with no_grad():
                yield self
        finally:
            for module, mode in modes:
                module.training = mode

    @property
    def device(self):
        """Where the parameters are: "cpu" or "cuda"."""
        return next((device_module.device_of(p.data) for _, p in self.named_parameters()), "cpu")

    def to(self, target):
        """Every parameter and buffer on another device ("cpu" or "cuda"), or in another float dtype (float64 for
        gradient checks). Gradients are forgotten; an optimizer must be made afterwards.

        Raises InputError where there is no card that could be used.
        """
        if isinstance(target, str) and target.startswith(("cpu", "cuda")):
            where = device_module.resolve(target)

            def moved(array):
                return device_module.to(array, where)
        else:

            def moved(array):
                return array.astype(target)

        for _, parameter in self.named_parameters():
            parameter.data, parameter.grad = moved(parameter.data), None
        for _, module, attribute in self.named_buffers():
            setattr(module, attribute, moved(getattr(module, attribute)))
        return self

    def freeze(self):
        """Stop training the parameters of this module and all below it."""
        for _, parameter in self.named_parameters():
            parameter.requires_grad = False
        return self


class ModuleList(Module):
    """Modules in a row, named 0, 1, 2, ..."""

    def __init__(self, modules=()):
        for module in modules:
            self.append(module)

    def append(self, module):
        setattr(self, str(len(self)), module)

    def __len__(self):
        return len(self.children())

    def __iter__(self):
        return iter([module for _, module in self.children()])

    def __getitem__(self, i):
        return list(self)[i]


class Sequential(ModuleList):
    """Modules applied one after the other."""

    def __init__(self, *modules):
        super().__init__(modules)

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


# -------------------------------------------------------------------------------------------------------- initializers


def kaiming_normal(rng, shape, fan, dtype=np.float32):
    """N(0, 2 / fan): keeps the variance through a ReLU layer (He et al. 2015). `fan` is the inputs (or outputs)
    summed over.
    """
    return (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(dtype)


def kaiming_uniform(rng, shape, fan, gain=1.0, dtype=np.float32):
    """U(-b, b) with b = gain sqrt(3 / fan); gain 1 is what detectors use for lateral and fully connected layers."""
    bound = gain * np.sqrt(3 / fan)
    return rng.uniform(-bound, bound, shape).astype(dtype)


def normal(rng, shape, deviation, dtype=np.float32):
    """N(0, deviation^2)."""
    return (rng.standard_normal(shape) * deviation).astype(dtype)


_init_rng = np.random.default_rng(0)


def seed_initializers(seed):
    """Make the weights of every module built from here on a function of `seed`."""
    global _init_rng
    _init_rng = np.random.default_rng(seed)


def init_rng():
    """The generator that initializers draw from."""
    return _init_rng


# -------------------------------------------------------------------------------------------------------------- layers


class Conv2d(Module):
    """Convolution of (N, H, W, in_channels) with weight (kh, kw, in_channels / groups, out_channels), bias optional.

    `relu=True` and a `residual` in the call are computed in the same pass: max(conv(x) + bias + residual, 0).
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, relu=False
    ):
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"Conv2d: groups {groups} must divide the channels {in_channels} and {out_channels}")
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        self.weight = Parameter(kaiming_normal(_init_rng, shape, fan=kernel_size**2 * out_channels / groups))
        if bias:
            self.bias = Parameter(np.zeros(out_channels, np.float32))
        self.settings = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        self.relu = relu

    def forward(self, x, residual=None):
        return conv2d(x, self.weight, getattr(self, "bias", None), residual=residual, relu=self.relu, **self.settings)


class ConvTranspose2d(Module):
    """Transposed convolution of (N, H, W, in_channels), weight (kh, kw, in_channels, out_channels): slide L23."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True, relu=False):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.weight = Parameter(kaiming_normal(_init_rng, shape, fan=kernel_size**2 * out_channels))
        if bias:
            self.bias = Parameter(np.zeros(out_channels, np.float32))
        self.stride, self.padding, self.relu = stride, padding, relu

    def forward(self, x):
        return conv_transpose2d(
            x, self.weight, getattr(self, "bias", None), stride=self.stride, padding=self.padding, relu=self.relu
        )


class Linear(Module):
    """(R, in_features) -> (R, out_features); weight (in_features, out_features)."""

    def __init__(self, in_features, out_features, relu=False):
        self.weight = Parameter(kaiming_uniform(_init_rng, (in_features, out_features), fan=in_features))
        self.bias = Parameter(np.zeros(out_features, np.float32))
        self.relu = relu

    def forward(self, x):
        return F.linear(x, self.weight, self.bias, relu=self.relu)


class BatchNorm2d(Module):
    """Each channel to mean 0 and variance 1 over the batch, then gamma x + beta (Ioffe & Szegedy 2015)."""

    buffer_names = ("running_mean", "running_var")

    def __init__(self, channels, relu=False, momentum=0.1, eps=1e-5):
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.running_mean = np.zeros(channels, np.float32)
        self.running_var = np.ones(channels, np.float32)
        self.relu, self.momentum, self.eps = relu, momentum, eps

    def scale_and_shift(self):
        """What inference amounts to: y = x scale + shift, two tensors (C,)."""
        scale = self.weight * (self.running_var + self.running_var.dtype.type(self.eps)) ** -0.5
        return scale, self.bias - scale * self.running_mean

    def forward(self, x, residual=None):
        return batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.training,
            self.momentum, self.eps, residual=residual, relu=self.relu,
        )  # fmt: skip


class FrozenBatchNorm2d(Module):
    """Batch norm whose four arrays are constants: y = x scale + shift, scale = weight / sqrt(running_var + eps).

    Detectors freeze it, for with one or two images a batch its statistics would be noise.
    """

    buffer_names = ("weight", "bias", "running_mean", "running_var")

    def __init__(self, channels, relu=False, eps=1e-5):
        self.weight = np.ones(channels, np.float32)
        self.bias = np.zeros(channels, np.float32)
        self.running_mean = np.zeros(channels, np.float32)
        self.running_var = np.ones(channels, np.float32)
        self.relu, self.eps = relu, eps

    def scale_and_shift(self):
        """The two arrays (C,) that the four amount to."""
        return constant_scale_and_shift(self.weight, self.bias, self.running_mean, self.running_var, self.eps)

    def forward(self, x, residual=None):
        constants = self.weight, self.bias, self.running_mean, self.running_var
        return batch_norm(x, *constants, training=False, eps=self.eps, residual=residual, relu=self.relu)


class GroupNorm(Module):
    """Each group of channels of each image to mean 0 and variance 1, then gamma x + beta (Wu & He 2018): no
    batch needed.
    """

    def __init__(self, channels, groups=8, relu=False, eps=1e-5):
        if channels % groups:
            raise ValueError(f"GroupNorm: groups {groups} must divide the channels {channels}")
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.groups, self.relu, self.eps = groups, relu, eps

    def forward(self, x, residual=None):
        return group_norm(x, self.weight, self.bias, self.groups, self.eps, residual=residual, relu=self.relu)
