"""Train small-image classifiers from scratch, localize objects, explain errors, export.

`import tinysight as ts` loads nothing else; each public name is imported when it is first used.
docs/api.md describes them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinysight.api.data import import_dataset, load_dataset
    from tinysight.api.evaluate import evaluate
    from tinysight.api.export import export
    from tinysight.api.finetune import finetune
    from tinysight.api.models import load_model
    from tinysight.api.quiz import export_answers, quiz, report_answers
    from tinysight.api.report import compare, report
    from tinysight.api.serve import serve
    from tinysight.api.train import list_recipes, train
    from tinysight.config import Config
    from tinysight.data.dataset import Dataset
    from tinysight.evaluation.evaluate import Evaluation
    from tinysight.models import create_model
    from tinysight.predict.predictor import Predictor
    from tinysight.recipes import recipe
    from tinysight.run import Run

__version__ = "0.2.0"
__all__ = [
    "Config",
    "Dataset",
    "Evaluation",
    "Predictor",
    "Run",
    "compare",
    "create_model",
    "evaluate",
    "export",
    "export_answers",
    "finetune",
    "import_dataset",
    "list_recipes",
    "load_dataset",
    "load_model",
    "quiz",
    "recipe",
    "report",
    "report_answers",
    "serve",
    "train",
]
_MODULES = {
    "Config": "config",
    "Dataset": "data.dataset",
    "Evaluation": "evaluation.evaluate",
    "Predictor": "predict.predictor",
    "Run": "run",
    "compare": "api.report",
    "create_model": "models",
    "evaluate": "api.evaluate",
    "finetune": "api.finetune",
    "export": "api.export",
    "export_answers": "api.quiz",
    "import_dataset": "api.data",
    "list_recipes": "api.train",
    "load_dataset": "api.data",
    "load_model": "api.models",
    "quiz": "api.quiz",
    "recipe": "recipes",
    "report": "api.report",
    "report_answers": "api.quiz",
    "serve": "api.serve",
    "train": "api.train",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tinysight' has no attribute {name!r}")
    module = importlib.import_module(f"tinysight.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
