"""Training and prediction without the calls that only POSIX systems have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import tinysight

PROGRAM = """
import os, signal, sys, warnings

warnings.filterwarnings("ignore", "only soft file lock is available")  # filelock, without fcntl

# All but what Python's own multiprocessing uses on POSIX (statvfs, waitpid, register_at_fork).
for name in ("pread", "preadv", "pwrite", "pwritev", "posix_fallocate", "posix_fadvise", "fork",
             "forkpty", "sched_getaffinity", "sched_setaffinity", "getuid", "geteuid", "getpgid",
             "setpgid", "setsid", "killpg", "fstatvfs", "nice", "waitid", "wait3", "wait4",
             "sendfile", "getloadavg"):
    vars(os).pop(name, None)
for name in ("SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGQUIT", "alarm", "setitimer",
             "pthread_sigmask", "pthread_kill", "sigwait", "siginterrupt"):
    vars(signal).pop(name, None)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None  # an import of it fails
"""

CHECK = """
import importlib, pkgutil
from pathlib import Path

import tinysight

for module in pkgutil.walk_packages(tinysight.__path__, "tinysight."):
    if not module.name.endswith("__main__") and module.name != "tinysight.study.ray":
        importlib.import_module(module.name)

import numpy as np
from tinysight.settings import override
from tinysight.data.build import build
from tinysight.data.shapes import Shapes
from tinysight.predict.predictor import load_model
from tinysight.recipes import recipe
from tinysight.training.loop import train

home = Path(sys.argv[1])
if __name__ == "__main__":
    dataset = build(
        Shapes(num_train=48, num_minival=24, num_val=24, num_test=0, image_size=32, name="small"),
        home=home,
        workers=1,
    )
    assert dataset.verify() == ()
    config = override(
        recipe("quickstart"),
        {"data.name": "small", "train.epochs": 1, "train.batch_size": 16, "augment.crop": 0.75,
         "model.options.filters": (4, 8), "train.device": "cpu", "train.precision": "fp32"},
    )
    run = train(config, dataset, name=home / "run")
    prediction = load_model(run.folder).predict(np.array(dataset.images[0]))
    assert prediction.label in dataset.class_names
    print("done")
"""


def test_training_and_prediction_run_without_posix_calls(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM + CHECK, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env={"PYTHONPATH": str(Path(tinysight.__file__).parent.parent), "PATH": "", "HOME": "/"},
    )
    assert done.returncode == 0 and done.stdout.strip().endswith("done"), done.stderr
