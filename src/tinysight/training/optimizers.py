"""Optimizers, built over a model's named parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tinysight.config import OptimizerConfig
from tinysight.models.classifier import is_of_head


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSProp as in TensorFlow 1, used to train Inception-ResNet (Wu et al. 2017, eqs. 2 and 3).

    With a gradient g: mean <- decay mean + (1 - decay) g^2; step <- momentum step + lr g /
    sqrt(mean + epsilon); weight <- weight - step. Differences from `torch.optim.RMSprop`: epsilon
    is inside the root, the mean starts at 1 in place of 0, and the learning rate is in the step
    that momentum keeps. With the report's epsilon of 1.0 that is another optimizer: with decay 0.9
    torch's first step is 0.81 to 1.38 times as long, later ones down to 0.71 times. Weight decay is
    L2: added to the gradient.
    """

    def __init__(
        self,
        parameters: Any,
        *,
        lr: float,
        decay: float = 0.9,
        epsilon: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "decay": decay, "epsilon": epsilon, "momentum": momentum}
        super().__init__(parameters, settings | {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step by the parameters' gradients."""
        assert closure is None, "the loop computes the gradients once"
        for group in self.param_groups:
            parameters, gradients = _gradients(group, group["weight_decay"])
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["square_average"] = torch.ones_like(parameter)
                    if group["momentum"]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            averages = [self.state[p]["square_average"] for p in parameters]
            torch._foreach_mul_(averages, group["decay"])
            torch._foreach_addcmul_(averages, gradients, gradients, value=1 - group["decay"])
            roots = torch._foreach_add(averages, group["epsilon"])
            torch._foreach_sqrt_(roots)
            steps = list(torch._foreach_div(gradients, roots))
            torch._foreach_mul_(steps, group["lr"])
            if group["momentum"]:
                buffers = [self.state[p]["momentum_buffer"] for p in parameters]
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_add_(buffers, steps)
                steps = buffers
            torch._foreach_sub_(parameters, steps)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalized steps for convolutions before a norm; SGD for everything else.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", with its
    polynomial. Deliberate difference: the scale. A kernel as a matrix (out, in x height x width)
    moves along the orthogonal matrix nearest to its (Nesterov) momentum, by `lr` times its own
    norm, and is rescaled to that norm: before a normalization the norm has no effect, so that `lr`
    is the rotation of a kernel in radians, and no weight decay is needed. All others (the stem's
    kernel of 3 channels, the last layer, norms, biases) are trained by plain SGD at a learning rate
    of their own, which follows the schedule, too.

    Args:
        groups: parameter groups, each with "kernels" True or False.
        bf16: compute the orthogonal matrix in bfloat16, which is precise enough.
        settings: lr of the kernels; sgd_ratio, the rate of the others in `lr`; momentum; nesterov.
    """

    def __init__(
        self,
        groups: Any,
        *,
        lr: float,
        sgd_ratio: float,
        momentum: float,
        nesterov: bool,
        bf16: bool = False,
    ) -> None:
        settings = {"lr": lr, "sgd_ratio": sgd_ratio, "momentum": momentum, "nesterov": nesterov}
        super().__init__(groups, settings | {"weight_decay": 0.0})
        self.dtype = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step by the parameters' gradients."""
        assert closure is None, "the loop computes the gradients once"
        for group in self.param_groups:
            decay = 0.0 if group["kernels"] else group["weight_decay"]
            parameters, gradients = _gradients(group, decay)
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            steps = [self.state[p]["momentum_buffer"] for p in parameters]
            torch._foreach_mul_(steps, group["momentum"])
            torch._foreach_add_(steps, gradients)
            if group["nesterov"]:
                steps = list(torch._foreach_add(gradients, steps, alpha=group["momentum"]))
            if group["kernels"]:
                self._rotate(parameters, steps, group["lr"])
            else:
                rate = group["lr"] * group["sgd_ratio"]
                torch._foreach_add_(parameters, steps, alpha=-rate)

    def _rotate(self, kernels: list[Tensor], steps: list[Tensor], lr: float) -> None:
        """Rotate kernels (O, I, H, W) by about `lr` radians against their steps, at their norms.

        Kernels of one shape are one batch of matrix products: a GPU would wait for its host, one
        small product after the other.
        """
        by_shape: dict[torch.Size, list[int]] = {}
        for index, kernel in enumerate(kernels):
            by_shape.setdefault(kernel.shape, []).append(index)
        for shape, members in by_shape.items():
            own = [kernels[index] for index in members]
            before = torch.stack([kernel.flatten(1) for kernel in own])
            matrices = torch.stack([steps[index].flatten(1) for index in members])
            directions = orthogonal(matrices, dtype=self.dtype)
            lengths = _norms(before)
            moved = before - directions * (lr * lengths / min(before.shape[1:]) ** 0.5)
            moved *= lengths / _norms(moved).clamp_min(1e-12)
            torch._foreach_copy_(own, list(moved.view(-1, *shape)))


def _gradients(group: dict[str, Any], decay: float) -> tuple[list[Tensor], list[Tensor]]:
    """Return a group's parameters that have a gradient, and these with L2 weight decay added."""
    parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    if decay and parameters:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=decay))
    return parameters, gradients


def _norms(matrices: Tensor) -> Tensor:
    """Return the Frobenius norms of matrices (..., M, N): (..., 1, 1)."""
    norms: Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    return norms


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return nearly the orthogonal matrices closest to `matrices` (..., M, N).

    Their singular values are 0.7 to 1.2. Five iterations X <- (a + b G + c G^2) X with G = X X^T,
    in `dtype`; the coefficients are Jordan's, chosen for steepness at 0. Polynomials of G commute,
    so that the iterations are done on the small side, M x M for M < N, and multiply X once, with
    half of the arithmetic. Rounding errors of G grow with its powers: it is formed again after two
    iterations, with which the result is as exact as by products with X throughout.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = (matrices.mT if tall else matrices).float()
    wide = (wide / _norms(wide).clamp_min(1e-12)).to(dtype)
    for iterations in (2, 3):
        wide = _power(wide @ wide.mT, iterations) @ wide
    nearest: Tensor = wide.mT if tall else wide
    return nearest.to(matrices.dtype)


def _power(square: Tensor, iterations: int) -> Tensor:
    """Return what multiplies X in some iterations of `orthogonal` from G = X X^T (..., M, M)."""
    first, third, fifth = 3.4445, -4.7750, 2.0315
    total: Tensor | None = None
    for iteration in range(iterations):
        factor = third * square + fifth * square @ square
        factor.diagonal(dim1=-2, dim2=-1).add_(first)
        total = factor if total is None else factor @ total
        if iteration + 1 < iterations:
            square = factor @ square @ factor
    assert total is not None
    return total


def _is_kernel(name: str, parameter: nn.Parameter, model: nn.Module) -> bool:
    """Whether a parameter is a kernel before a norm: those convolutions have no bias."""
    module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, nn.Conv2d) and module.bias is None and parameter.shape[1] > 3


Named = list[tuple[str, nn.Parameter]]


def check(model: nn.Module, settings: OptimizerConfig) -> None:
    """Raise ValueError for Muon where it would train nothing."""
    if settings.name == "muon" and not any(_is_kernel(*own, model) for own in _trained(model)):
        raise ValueError(
            "optimizer.name is muon, and this network has no convolution without a bias before a "
            "norm for it (VGG's have biases); set optimizer.name=sgd"
        )


def _trained(model: nn.Module) -> Named:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _by_rate(model: nn.Module, encoder_ratio: float) -> list[tuple[float, Named]]:
    """Return the trainable parameters, by the multiple of the learning rate that they are given."""
    named = _trained(model)
    if encoder_ratio == 1:
        return [(1.0, named)]
    encoder, heads = ([item for item in named if is_of_head(item[0]) == own] for own in (0, 1))
    return [(encoder_ratio, encoder), (1.0, heads)]


def _groups(model: nn.Module, named: Named, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """Divide parameters by how they are trained: Muon's kernels, with weight decay, without."""
    kernels: list[nn.Parameter] = []
    if settings.name == "muon":
        kernels = [p for name, p in named if _is_kernel(name, p, model)]
    others = [p for _, p in named if not any(p is kernel for kernel in kernels)]
    parts = [(others, settings.weight_decay)]
    if not settings.decay_all:
        matrices, vectors = ([p for p in others if (p.ndim > 1) == wide] for wide in (True, False))
        parts = [(matrices, settings.weight_decay), (vectors, 0.0)]
    groups = [{"params": own, "weight_decay": decay, "kernels": False} for own, decay in parts]
    return [{"params": kernels, "kernels": True}, *groups]


def build(
    model: nn.Module, settings: OptimizerConfig, *, bf16: bool = False
) -> torch.optim.Optimizer:
    """Build the optimizer over the trainable parameters of `model`; `bf16`: see `Muon`.

    With `decay_all=False` vectors (norms, biases, PReLU's slopes) get no weight decay. torch's
    own are fused where the device allows: gradients must lie in memory as their parameters do,
    which autograd and DistributedDataParallel ensure.
    """
    parts = _by_rate(model, settings.encoder_ratio)
    groups = [
        {**group, "ratio": ratio}
        for ratio, named in parts
        for group in _groups(model, named, settings)
        if group["params"]
    ]

    def chosen(*names: str) -> dict[str, Any]:
        return {name: getattr(settings, name) for name in names}

    if settings.name == "muon":
        return Muon(groups, bf16=bf16, **chosen("lr", "sgd_ratio", "momentum", "nesterov"))
    if settings.name == "rmsprop":
        return TensorFlowRMSprop(groups, **chosen("lr", "decay", "epsilon", "momentum"))
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    if settings.name == "adam":
        own = chosen("lr", "betas")
        return torch.optim.Adam(groups, eps=settings.epsilon, fused=fused, **own)
    return torch.optim.SGD(groups, fused=fused, **chosen("lr", "momentum", "nesterov"))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; a group of the encoder gets its ratio of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["ratio"]


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors as {"<parameter>|<key>": tensor}, for a checkpoint."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}|{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Restore `optimizer_tensors`, on each parameter's device and in its memory layout."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("|")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            restored = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
            restored.copy_(tensor)
        else:  # a count of steps
            restored = tensor.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = restored
