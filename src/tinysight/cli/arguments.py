"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Where prepared datasets are kept.",
        show_default="$TINYSIGHT_DATA or ~/.cache/tinysight",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that decode.", show_default="all cores")
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace a dataset of this name from another source.")
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="List and leave out unreadable files.")
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FIELD=VALUE]...", help="Changes to the recipe, as train.epochs=8."),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or its name under runs/.")
]
Split = Annotated[str, typer.Option(help="minival (for choices) or val (for reports).")]
Data = Annotated[
    str | None,
    typer.Option(help="Another dataset with the same classes.", show_default="the run's"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Minutes = Annotated[
    float,
    typer.Option(
        min=0,
        help="Save and stop after so many, with status 75; the same command continues.",
        show_default="no limit",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Of a localizer: the confidence from which a box is accepted.", show_default="its own"
    ),
]
Decoding = Annotated[
    str | None, typer.Option(help="Of a localizer: filter or stop.", show_default="its own")
]
