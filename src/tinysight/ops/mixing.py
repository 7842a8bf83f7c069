"""Mix each image of a batch with its neighbor: Mixup and CutMix, the random draws apart from the
arithmetic.

Mixup (Zhang et al. 2018, arXiv:1710.09412) adds two images; CutMix (Yun et al. 2019,
arXiv:1905.04899) pastes a window of the one into the other. Deliberate differences:

* The partner of image i is image i ^ 1, so 0 and 1, 2 and 3, ... are pairs. Loader are in random
  order, so this is as random as a permutation, and it does not depend on how many processes share a
  batch (of an even share each).
* Every image has draws of its own, where both papers' programs draw once a batch.
* The weights of CutMix's labels are counted in the pixels that were pasted, after rounding and
clipping."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from tinysight.ops import windows
from tinysight.ops.tensor_rows import TensorRows


@dataclass(frozen=True)
class MixParams(TensorRows):
    """How each of N images is mixed; all tensors have N rows."""

    own: Tensor  # float32 (N,): Mixup's share of the image itself, 1 where there is no Mixup
    # float32 (N, 4): CutMix's (x0, y0, x1, y1) in shares of the side, empty where there is none
    window: Tensor


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a network should say of B images: `own` of the weight on `labels`, the rest on
    `partners`; all (B,).
    """

    labels: Tensor
    partners: Tensor
    own: Tensor

    @property
    def main(self) -> Tensor:
        """The heavier label of each image: int64 (B,)."""
        return torch.where(self.own >= 0.5, self.labels, self.partners)


def draw(
    count: int, *, generator: torch.Generator, mixup: float, cutmix: float, probability: float
) -> MixParams:
    """Draw how each of `count` images is mixed, on the CPU, from `generator`.

    Each image is mixed with `probability`. `mixup` and `cutmix` are the alphas of Beta(alpha,
    alpha), the share of the image itself; 0 turns a method off, and with both on each mixed
    image takes either by the toss of a coin."""
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        if not 0 <= alpha < float("inf"):
            raise ValueError(
                f"{name} is {alpha}: give the alpha of a Beta distribution, 0 for none"
            )
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}: give a share from 0 to 1")
    uniform = torch.rand(6, count, generator=generator)
    mixed = uniform[0] < probability
    cut = uniform[1] < (0.5 if mixup and cutmix else float(bool(cutmix)))
    one = torch.ones(count)
    own = torch.where(mixed & ~cut, _beta(uniform[2], mixup), one) if mixup else one
    window = torch.zeros(count, 4)
    if cutmix:
        side = (1 - _beta(uniform[3], cutmix)).sqrt()
        window = windows.around(uniform[4], uniform[5], width=side, height=side)
        window = torch.where((mixed & cut)[:, None], window, 0.0)
    return MixParams(own=own, window=window)


def apply(images: Tensor, labels: Tensor, mixes: MixParams) -> tuple[Tensor, Targets]:
    """Mix float images (B, 3, H, W), B labels with them: images of the same shape and the targets.

    With an odd B the last image stays as it is.
    """
    count = len(labels)
    partner = torch.arange(count, device=labels.device) ^ 1
    partner = torch.where(partner < count, partner, torch.arange(count, device=labels.device))
    others = images[partner]
    own = mixes.own[:, None, None, None]
    pasted = windows.mask(mixes.window, height=images.shape[2], width=images.shape[3])[:, None]
    mixed = torch.where(pasted, others, torch.lerp(others, images, own))
    share = mixes.own * (1 - pasted.float().mean(dim=(1, 2, 3)))
    return mixed, Targets(labels=labels, partners=labels[partner], own=share)


def cross_entropy(logits: Tensor, targets: Targets, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of logits (B, K) against two weighted labels, each smoothed: a
    scalar.
    """
    own, other = (
        F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
        for labels in (targets.labels, targets.partners)
    )
    return torch.lerp(other, own, targets.own).mean()


def _beta(uniform: Tensor, alpha: float) -> Tensor:
    """Turn uniform numbers (N,) into ones of Beta(alpha, alpha), by the inverse of its
    distribution.
    """
    return torch.from_numpy(betaincinv(alpha, alpha, uniform.double().numpy())).float()
