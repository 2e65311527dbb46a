"""Modules: named parameters, initializers, layers.

Names and behavior are those of torch.nn. Feature maps are (N, H, W, C), convolution weights (kh, kw, in, out).
"""

import contextlib

import numpy as np

from minimask import device as device_module
from minimask import functional as F
from minimask.convolution import conv2d, conv_transpose2d
from minimask.errors import InputError
from minimask.normalization import batch_norm, constant_scale_and_shift, group_norm
from minimask.run.show import module_tree
from minimask.tensor import Parameter, no_grad


class Module:
    """Holds parameters, buffers and other modules, under the names of its attributes.

    training: whether the module trains (batch statistics) or infers (running statistics).
    buffer_names: the attributes that are arrays which are saved but not trained.
    `print(module)` shows a tree of its parts with the shapes of their arrays and their numbers of parameters.
    """

    training = True
    buffer_names = ()

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)

    def __repr__(self):
        return module_tree(self)

    def children(self):
        """(name, module) of each direct part, in the order of assignment."""
        return [(name, value) for name, value in vars(self).items() if isinstance(value, Module)]

    def modules(self):
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix=""):
        """(name, Parameter) of this module and all below it, with names such as `layer1.0.conv1.weight`."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")

    def parameters(self):
        """All parameters that are trained."""
        return [p for _, p in self.named_parameters() if p.requires_grad]

    def named_buffers(self, prefix=""):
        """(name, module, attribute) of each buffer of this module and all below it."""
        for name in self.buffer_names:
            yield prefix + name, self, name
        for name, child in self.children():
            yield from child.named_buffers(f"{prefix}{name}.")

    def state_dict(self):
        """A dict from name to array of every parameter and buffer: the arrays themselves, not copies."""
        state = {name: p.data for name, p in self.named_parameters()}
        state.update({name: getattr(module, attribute) for name, module, attribute in self.named_buffers()})
        return state

    def load_state_dict(self, state):
        """Copy in the arrays of `state`, a dict as from `state_dict`.

        Raises InputError, with nothing changed, if a name is missing or unknown, or if a shape differs.
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
        """Switch this module and all below it to training (batch statistics) or, with False, to inference."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Switch this module and all below it to inference (running statistics)."""
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
        """Move every parameter and buffer to another device, or convert it to another float dtype.

        target: "cpu", "cuda", "cuda:1", or a dtype (float64 for gradient checks).
        Gradients are forgotten; make the optimizer afterwards. Raises InputError if there is no usable GPU.
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
    """A list of modules, named 0, 1, 2, ..."""

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
    """Modules that are applied one after the other."""

    def __init__(self, *modules):
        super().__init__(modules)

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


# -------------------------------------------------------------------------------------------------------- initializers


def kaiming_normal(rng, shape, fan, dtype=np.float32):
    """Samples of N(0, 2 / fan), which keep the variance of features through ReLU layers (He et al. 2015).

    fan: how many inputs an output sums over (or how many outputs an input reaches).
    """
    return (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(dtype)


def kaiming_uniform(rng, shape, fan, gain=1.0, dtype=np.float32):
    """Samples of U(-b, b), b = gain sqrt(3 / fan); detectors use gain 1 for lateral and fully connected layers."""
    bound = gain * np.sqrt(3 / fan)
    return rng.uniform(-bound, bound, shape).astype(dtype)


def normal(rng, shape, deviation, dtype=np.float32):
    """Samples of N(0, deviation^2)."""
    return (rng.standard_normal(shape) * deviation).astype(dtype)


_init_rng = np.random.default_rng(0)


def seed_initializers(seed):
    """Let the weights of every module that is built from now on depend on `seed` alone."""
    global _init_rng
    _init_rng = np.random.default_rng(seed)


def init_rng():
    """The random generator that initializers draw from."""
    return _init_rng


# -------------------------------------------------------------------------------------------------------------- layers


class Conv2d(Module):
    """Convolution of a map (N, H, W, in_channels): see `convolution.conv2d`.

    The weight is (kh, kw, in_channels / groups, out_channels). With `relu`, and with a `residual` in the call, the
    layer computes max(conv(x) + bias + residual, 0) in the same pass over the map.
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
    """Transposed convolution of a map (N, H, W, in_channels), weight (kh, kw, in_channels, out_channels); slide L23."""

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
    """Fully connected layer: (R, in_features) -> (R, out_features), weight (in_features, out_features)."""

    def __init__(self, in_features, out_features, relu=False):
        self.weight = Parameter(kaiming_uniform(_init_rng, (in_features, out_features), fan=in_features))
        self.bias = Parameter(np.zeros(out_features, np.float32))
        self.relu = relu

    def forward(self, x):
        return F.linear(x, self.weight, self.bias, relu=self.relu)


class BatchNorm2d(Module):
    """Brings each channel to mean 0 and variance 1 over the batch, then to weight x + bias (Ioffe & Szegedy 2015)."""

    buffer_names = ("running_mean", "running_var")

    def __init__(self, channels, relu=False, momentum=0.1, eps=1e-5):
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.running_mean = np.zeros(channels, np.float32)
        self.running_var = np.ones(channels, np.float32)
        self.relu, self.momentum, self.eps = relu, momentum, eps

    def scale_and_shift(self):
        """What the layer amounts to in inference, y = x scale + shift: two Tensors (C,)."""
        scale = self.weight * (self.running_var + self.running_var.dtype.type(self.eps)) ** -0.5
        return scale, self.bias - scale * self.running_mean

    def forward(self, x, residual=None):
        arrays = self.weight, self.bias, self.running_mean, self.running_var
        return batch_norm(x, *arrays, self.training, self.momentum, self.eps, residual=residual, relu=self.relu)


class FrozenBatchNorm2d(Module):
    """Batch norm whose four arrays are constants: y = x scale + shift with scale = weight / sqrt(running_var + eps).

    Detectors freeze batch norm because the statistics of one or two images per batch would be noise.
    """

    buffer_names = ("weight", "bias", "running_mean", "running_var")

    def __init__(self, channels, relu=False, eps=1e-5):
        self.weight = np.ones(channels, np.float32)
        self.bias = np.zeros(channels, np.float32)
        self.running_mean = np.zeros(channels, np.float32)
        self.running_var = np.ones(channels, np.float32)
        self.relu, self.eps = relu, eps

    def scale_and_shift(self):
        """The two arrays (C,) that the four amount to, y = x scale + shift."""
        return constant_scale_and_shift(self.weight, self.bias, self.running_mean, self.running_var, self.eps)

    def forward(self, x, residual=None):
        arrays = self.weight, self.bias, self.running_mean, self.running_var
        return batch_norm(x, *arrays, training=False, eps=self.eps, residual=residual, relu=self.relu)


class GroupNorm(Module):
    """Brings each group of channels of each image to mean 0 and variance 1, then to weight x + bias (Wu & He 2018).

    The statistics come from one image, so batches may be small.
    """

    def __init__(self, channels, groups=8, relu=False, eps=1e-5):
        if channels % groups:
            raise ValueError(f"GroupNorm: groups {groups} must divide the channels {channels}")
        self.weight = Parameter(np.ones(channels, np.float32))
        self.bias = Parameter(np.zeros(channels, np.float32))
        self.groups, self.relu, self.eps = groups, relu, eps

    def forward(self, x, residual=None):
        return group_norm(x, self.weight, self.bias, self.groups, self.eps, residual=residual, relu=self.relu)
