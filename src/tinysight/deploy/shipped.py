"""The model that comes with the package: it answers right after the installation, without a run or a network.

The weights file lies beside this module, its matrices in half precision. Its card names the classes, the recipe and
commit that trained it, and under `results["val"]` the errors measured with this very file.
"""

from __future__ import annotations

from pathlib import Path

from tinysight.deploy.predictor import Predictor
from tinysight.deploy.weights import Card
from tinysight.device import Placement

PATH = Path(__file__).with_name("tiny-imagenet.safetensors")


def shipped(
    *, placement: Placement | None = None, threshold: float | None = None, decoding: str | None = None
) -> Predictor:
    """Return the model that comes with the package; by default on the CPU. See `Predictor` for the arguments.

    Raises:
        ValueError: this installation lacks the file.
    """
    if not PATH.is_file():
        raise ValueError(f"this installation of tinysight lacks {PATH.name}; install it anew, or name a run of yours")
    return Predictor(PATH, placement=placement, threshold=threshold, decoding=decoding)


def describe(card: Card) -> str:
    """Return one phrase for people: recipe, classes, data and, where it was measured, the error on val."""
    phrase = f"{card.recipe}, {len(card.class_names)} classes of {card.data}"
    val = card.results.get("val", {})
    if "top1_error" in val:
        phrase += f", {val['top1_error']:.1%} top-1 error on val"
    return phrase + (f", {val['loc50']:.1%} of objects found" if "loc50" in val else "")
