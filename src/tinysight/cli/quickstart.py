"""The command that shows everything once: data, training, evaluation, prediction."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

from typer import Option

from tinysight.cli.arguments import DataDir, Settings
from tinysight.cli.evaluate import print_metrics
from tinysight.cli.predict import prediction_lines
from tinysight.text import pluralize


def quickstart(
    settings: Settings = None,
    name: Annotated[
        str | None, Option(help="Run's name or folder.", show_default="quickstart-TIME")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Draw 12,500 images of shapes, train on them, evaluate, and predict: 5 to 10 minutes.

    \b
    Examples:
      tinysight quickstart
    """
    import numpy as np

    import tinysight as ts
    from tinysight.settings import change, parse_assignments

    config = change(ts.recipe("quickstart"), dict(parse_assignments(settings or [])))
    name = name or f"quickstart-{time.strftime('%Y%m%d-%H%M%S')}"
    dataset = ts.load_dataset("shapes", data_dir=data_dir)
    print(f"data     {dataset.name}: {pluralize(len(dataset), 'image')} in {dataset.path}")
    command = shlex.join(["tinysight", "quickstart", *(settings or []), "--name", name])
    run = ts.train(config, dataset, name=name, data_dir=data_dir, command=command)
    print(f"trained  {run.weights_path}")
    print_metrics(ts.evaluate(run, data=dataset))

    print("predictions for images it has not seen:")
    predictor = ts.load_model(run)
    examples = sorted(Path("examples/images").glob("*.png"))
    if examples:
        predictions = predictor.predict(examples, top=3)
    else:
        images = dataset.images[dataset.rows("val").start :][:6]
        predictions = predictor.predict([np.array(image) for image in images], top=3)
    for prediction in predictions:
        print("\n".join(prediction_lines(prediction, predictor)))
    print(
        f"next     look at {run.curves_path} and {run.predictions_path('val')}\n"
        f"         tinysight report {run.folder}     a page on its errors\n"
        "         tinysight predict photo.jpg     by the bundled model, 200 classes\n"
        "         tinysight data import FOLDER --name NAME     your own images, by class\n"
        f"         tinysight serve {run.folder}     a page to ask it and teach classes"
    )
