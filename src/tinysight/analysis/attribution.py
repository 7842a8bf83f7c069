"""What in an image spoke for a class: class-activation maps.

A map is the sum over channels of features times the gradient of the class's logit with respect
to them. For a linear head after global average pooling that is the class-activation map of Zhou
et al. 2016 (arXiv:1512.04150): it adds up to the logit less its bias, exactly. For other heads
it is the element-wise gradient map (HiResCAM, Draelos and Carin 2020, arXiv:2011.08891), which
is that sum to first order."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def activation_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return maps (B, h, w) of what in images (B, 3, H, W), 0..255, spoke for (positive) or against
    `classes` (B,).

    `model` has `forward_features`, gives features (B, C, h, w) there, and its `forward` calls it;
    it is used as it is, in its present mode.

    Raises:
        ValueError: the logits do not depend on `forward_features`.
    """
    with torch.no_grad():
        features = model.forward_features(images).detach()  # type: ignore[operator]
    features.requires_grad_()
    with torch.enable_grad():
        logits = _logits_from(model, features, images)
        own = logits.gather(1, classes[:, None]).sum()
        (gradient,) = (
            torch.autograd.grad(own, features, allow_unused=True) if own.requires_grad else (None,)
        )
    if gradient is None:
        raise ValueError(
            f"the logits of {type(model).__name__} do not come from its forward_features: there is no map"
        )
    maps: Tensor = (features.detach() * gradient).sum(dim=1)
    return maps


def _logits_from(model: nn.Module, features: Tensor, images: Tensor) -> Tensor:
    """Run the rest of a model from its features on."""
    model.forward_features = lambda _: features  # type: ignore[assignment]  # hides the method, for this object alone
    try:
        logits: Tensor = model(images)
    finally:
        del model.forward_features
    return logits
