"""The report: what there is to know of a run on one page, with figures and tables in its folder.

`write_report` collects sections and fills a template; the sentences are in the template, the
numbers come from here and from `report_sections`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinysight import models
from tinysight.analysis import report_sections as sections
from tinysight.analysis.page import Page
from tinysight.analysis.probes import Probes
from tinysight.analysis.results import RunResults
from tinysight.config import Config
from tinysight.data.batches import chosen_rows
from tinysight.files import folder_names
from tinysight.models.localizer import Localizer
from tinysight.predict.metadata import HEAD_SETTINGS
from tinysight.predict.predictor import Predictor


def write_report(
    run: RunResults, out: Path, *, probes: Probes | None = None, predictor: Predictor | None = None
) -> Path:
    """Write index.html, figures/ and tables/ in `out`, and return the page's path.

    Without probes their parts are left out; the predictor is used for the first filters. Raises
    ValueError where the run has neither scores nor a line of a training.
    """
    trained = any(line["kind"] == "train" for line in run.log)
    results = run.results
    if results is None and not trained:
        missing = "neither scores nor a line of a training yet"
        raise ValueError(f"{run.run.folder} has {missing}; there is nothing to report")
    page = Page(out)
    evaluated = results or () if run.detections is None else run.detections.boxes
    values: dict[str, Any] = {
        "run": run,
        "config": run.config,
        "summary": summary(run),
        "num_evaluated": len(evaluated),
        "results": results,
        "curves": sections.curves_section(run, page) if trained else None,
        "localization": sections.localization_section(run, page) if run.detections else None,
        "filters": sections.filters_section(predictor, page) if predictor else None,
        "distributions": sections.distributions_section(run, page),
        "probes": probes,
    }
    if results is not None:
        values |= {
            "names": results.class_names,
            "classes": sections.classes_section(results, page),
            "confusion": sections.confusions_section(results, page, probes),
            "occlusion": sections.occlusion_section(results, probes),
            "gallery": sections.mistakes_section(results, probes, run.learned),
            "calibration": sections.calibration_section(results, page),
            "suspected": sections.suspected_labels_section(results, page, probes, run.learned),
            "duplicates": sections.duplicates_section(results, page),
        }
    return page.write("report.html.j2", values)


def summary(run: RunResults) -> dict[str, Any]:
    """Summarize what the run is: parameters, time, data that it learned from, configuration."""
    config, learned = run.config, run.learned
    dataset = learned or run.dataset
    parameters, multiply_adds = _size_of(config, len(dataset.class_names), dataset.image_size)
    num_train = None  # where what it learned from is not here
    if learned is not None:
        num_train = len(chosen_rows(learned, config.data.train, config.data.fraction))
    trained = [line for line in run.log if line["kind"] == "train"]
    settings = {name: own for name, own in asdict(config).items() if isinstance(own, dict)}
    for path, value in run.run.retired.items():
        section, _, name = path.partition(".")
        settings[section][name] = value
    return {
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "seconds": run.summary["seconds"] if run.summary else None,
        "epochs_done": trained[-1]["epoch"] if trained else 0.0,
        "steps": trained[-1]["step"] if trained else 0,
        "settings": settings,
        "data": folder_names(config.data.name)[0] if learned is None else learned.name,
        "num_train": num_train,
    }


def _size_of(config: Config, num_classes: int, image_size: int) -> tuple[int, int]:
    """Return parameters and multiply-adds per image, of a localizer with its head.

    A classifier's tensors are not allocated; a head leaves autocast, which needs a real device.
    """
    settings, size = config.localizer, config.input_sizes(image_size)[-1][1]
    with torch.device("cpu" if settings.finds else "meta"):
        classifier = models.create_model(config.model.name, num_classes, **config.model.options)
        model: nn.Module = classifier
        if settings.finds:
            own = {name: getattr(settings, name) for name in HEAD_SETTINGS}
            own["num_classes"] = num_classes if settings.box_classes else 0
            model = Localizer(classifier, **own)
    return models.count_parameters(model), models.count_multiply_adds(model, size)
