"""A page on a model, served on this computer."""

from __future__ import annotations

from typing import Any

from tinysight.api.data import Folder
from tinysight.api.models import load_model
from tinysight.run import Run
from tinysight.server import http


def serve(
    model: Run | Folder | None = None, *, threshold: float | None = None, **options: Any
) -> None:
    """Serve a page where pictures are dropped and answered, until Ctrl-C or SIGTERM.

    Args:
        model: a run or its name, a weights file, or (None) the bundled model.
        threshold: of a localizer, the confidence from which a box is accepted; None: its own.
        options: host, port, token, started; see `server.http.serve`.
    """
    http.serve(load_model(model, threshold=threshold), **options)
