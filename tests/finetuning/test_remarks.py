"""Shots of one scene are noticed, other pictures of a class are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinysight.finetuning.remarks import scene_remark


@pytest.mark.parametrize(
    ("shots", "spread", "same_file", "noticed"),
    [(4, 0.2, False, 40), (4, 2.0, False, 0), (4, 0.2, True, 0), (1, 0.2, False, 0)],
)
def test_shots_of_one_scene_are_counted(
    shots: int, spread: float, same_file: bool, noticed: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(10, 1, 64, generator=generator).repeat(1, shots, 1)
    views = torch.cat([torch.randn(60, 64, generator=generator), scenes.flatten(0, 1)])
    views = views + spread * torch.randn(views.shape, generator=generator)
    labels, groups = np.zeros(len(views), np.int64), np.arange(len(views))
    if same_file:
        groups[60:] = 60 + np.arange(10 * shots) // shots
    found = scene_remark(torch.stack((views, views), dim=1) + 3, labels, groups)
    expected = f"{noticed} of {len(views)} images are much like another one of their class; if they"
    assert found is None if not noticed else (found or "").startswith(expected)
    other = np.arange(len(views))  # a class for each: nothing to be alike
    assert scene_remark(torch.stack((views, views), dim=1), other, groups) is None
