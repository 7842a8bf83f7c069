"""The model that comes with the package: it answers right after the installation, without a run or
a network.

The weights file lies beside this module, its matrices in half precision. Its metadata names the
classes, the recipe and commit that trained it, and under `results["val"]` the errors measured
with this very file."""

from __future__ import annotations

from pathlib import Path

from tinysight.device import Runtime
from tinysight.predict.predictor import Predictor
from tinysight.predict.weights import ModelMetadata

PATH = Path(__file__).with_name("tiny-imagenet.safetensors")


def bundled(
    *, runtime: Runtime | None = None, threshold: float | None = None, decoding: str | None = None
) -> Predictor:
    """Return the model that comes with the package; by default on the CPU. See `Predictor` for the
    arguments.

    Raises:
        ValueError: this installation lacks the file.
    """
    if not PATH.is_file():
        raise ValueError(
            f"this installation of tinysight lacks {PATH.name}; install it anew, or name a run of yours"
        )
    return Predictor(PATH, runtime=runtime, threshold=threshold, decoding=decoding)


def describe(metadata: ModelMetadata) -> str:
    """Return one phrase for people: recipe, classes, data and, where it was measured, the error on
    val.
    """
    phrase = f"{metadata.recipe}, {len(metadata.class_names)} classes of {metadata.data}"
    val = metadata.results.get("val", {})
    if "top1_error" in val:
        phrase += f", {val['top1_error']:.1%} top-1 error on val"
    return phrase + (f", {val['loc50']:.1%} of objects found" if "loc50" in val else "")
