"""Mixup and CutMix; random parameters are sampled apart from applying them.

Mixup (Zhang et al. 2018, arXiv:1710.09412) averages two images; CutMix (Yun et al. 2019,
arXiv:1905.04899) pastes a window of one into the other. Deliberate differences:

* The partner of image i is image i ^ 1: as random as a permutation, as batches are in random order,
  and independent of how many processes share a batch.
* Parameters are sampled per image, not per batch.
* The weights of CutMix's labels are counted in the pixels that were pasted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops.tensor_rows import TensorRows


@dataclass(frozen=True)
class MixParams(TensorRows):
    """How each of N images is mixed."""

    weight: Tensor  # float32 (N,): mixup's weight of the image itself, 1 where there is no mixup
    # float32 (N, 4): CutMix's (x0, y0, x1, y1) in shares of the side, empty where there is none
    window: Tensor

    @property
    def mixed(self) -> Tensor:
        """Whether there is anything of its partner in an image: bool (N,)."""
        pasted = (self.window[:, 2:] > self.window[:, :2]).all(dim=1)
        return (self.weight < 1) | pasted


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Targets of B images: `weight` of `labels`, the rest of `partners`; all (B,)."""

    labels: Tensor
    partners: Tensor
    weight: Tensor

    @property
    def main(self) -> Tensor:
        """The label with the larger weight of each image: int64 (B,)."""
        return torch.where(self.weight >= 0.5, self.labels, self.partners)


def sample_mix(
    count: int, *, generator: torch.Generator, mixup: float, cutmix: float, probability: float
) -> MixParams:
    """Sample how each of `count` images is mixed, on the CPU.

    Args:
        mixup, cutmix: alpha of Beta(alpha, alpha), the share of the image itself; 0: not used.
            With both, each mixed image takes either at random.
        probability: that an image is mixed.
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        if not 0 <= alpha < math.inf:
            raise ValueError(f"{name} is {alpha}: give the alpha of a Beta distribution, 0: none")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}: give a share from 0 to 1")
    uniform = torch.rand(6, count, generator=generator)
    mixed = uniform[0] < probability
    cut = uniform[1] < (0.5 if mixup and cutmix else float(bool(cutmix)))
    one = torch.ones(count)
    weight = torch.where(mixed & ~cut, _beta(uniform[2], mixup), one) if mixup else one
    window = torch.zeros(count, 4)
    if cutmix:
        side = (1 - _beta(uniform[3], cutmix)).sqrt()
        window = _window(uniform[4], uniform[5], width=side, height=side)
        window = torch.where((mixed & cut)[:, None], window, 0.0)
    return MixParams(weight=weight, window=window)


def partners(labels: Tensor) -> Tensor:
    """Return the index of the image that each of labels (B,) is mixed with: int64 (B,)."""
    index = torch.arange(len(labels), device=labels.device)
    return torch.where((index ^ 1) < len(labels), index ^ 1, index)


def mix(images: Tensor, labels: Tensor, params: MixParams) -> tuple[Tensor, Targets]:
    """Mix float images (B, 3, H, W) with labels (B,); with an odd B the last is not mixed."""
    partner = partners(labels)
    others = images[partner]
    pasted = _mask(params.window, height=images.shape[2], width=images.shape[3])[:, None]
    mixed = torch.lerp(others, images, params.weight[:, None, None, None])
    share = params.weight * (1 - pasted.float().mean(dim=(1, 2, 3)))
    targets = Targets(labels=labels, partners=labels[partner], weight=share)
    return torch.where(pasted, others, mixed), targets


def cross_entropy(
    logits: Tensor,
    targets: Targets,
    *,
    soft_labels: Tensor | None = None,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of logits (B, K) with two weighted labels, each smoothed.

    A label of -1 is none, and adds nothing. `soft_labels` (B, K) take the place of the images'
    labels before they were mixed; `weights` (K,) are factors on each label's part.
    """
    pairs = [(targets.labels, targets.labels), (targets.partners, targets.partners)]
    if soft_labels is not None:
        others = soft_labels[partners(targets.labels)]
        pairs = [(targets.labels, soft_labels), (targets.partners, others)]
    of_labels, of_partners = (
        F.cross_entropy(
            logits, target, reduction="none", label_smoothing=label_smoothing, ignore_index=-1
        )
        * (labels >= 0 if weights is None else weights[labels] * (labels >= 0))
        for labels, target in pairs
    )
    return torch.lerp(of_partners, of_labels, targets.weight).mean()


def _beta(uniform: Tensor, alpha: float) -> Tensor:
    """Transform uniform numbers (N,) to Beta(alpha, alpha), by the inverse distribution."""
    return torch.from_numpy(betaincinv(alpha, alpha, uniform.double().numpy())).float()


def _window(center_x: Tensor, center_y: Tensor, *, width: Tensor, height: Tensor) -> Tensor:
    """Return windows (N, 4) in shares of the image's sides, clipped; all arguments are (N,)."""
    center, half = torch.stack((center_x, center_y), -1), torch.stack((width, height), -1) / 2
    return torch.cat((center - half, center + half), -1).clamp(0, 1)


def _mask(windows: Tensor, *, height: int, width: int) -> Tensor:
    """Return the pixels in windows (N, 4), rounded to whole pixels: bool (N, height, width)."""
    x0, y0, x1, y1 = windows[..., None].unbind(1)
    columns, rows = (torch.arange(side, device=windows.device) for side in (width, height))
    across = (columns >= (x0 * width).round()) & (columns < (x1 * width).round())
    down = (rows >= (y0 * height).round()) & (rows < (y1 * height).round())
    return down[:, :, None] & across[:, None, :]
