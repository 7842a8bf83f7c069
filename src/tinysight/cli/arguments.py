"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

DataDir = Annotated[
    Path | None,
    Option(
        "--data-dir",
        help="Where prepared datasets are kept.",
        show_default="$TINYSIGHT_DATA or ~/.cache/tinysight",
    ),
]
Workers = Annotated[int | None, Option(min=1, help="Decoding processes.", show_default="all cores")]
Replace = Annotated[
    bool, Option("--replace", help="Prepare it again, even in place of one from another source.")
]
SkipUnreadable = Annotated[bool, Option("--skip-unreadable", help="Leave out unreadable files.")]
Settings = Annotated[
    list[str] | None,
    Argument(metavar="[FIELD=VALUE]...", help="Changes to the recipe, as train.epochs=8."),
]
RunName = Annotated[str, Argument(metavar="RUN", help="A run's folder, or its name under runs/.")]
Split = Annotated[
    str | None,
    Option(
        help="minival (for choices), val (for reports), or several, as train+minival+val.",
        show_default="val, if there is one",
    ),
]
Data = Annotated[
    str | None, Option(help="A dataset with the same classes.", show_default="the run's")
]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON.")]
Minutes = Annotated[
    float,
    Option(
        min=0,
        help="Save and stop after so many, with status 75; `tinysight resume` goes on.",
        show_default="no limit",
    ),
]
Threshold = Annotated[
    float | None,
    Option(help="Of a localizer: confidence from which a box is accepted.", show_default="its own"),
]
Decoding = Annotated[str | None, Option(help="Localizer: filter or stop.", show_default="its own")]
# of a page that is served
Host = Annotated[str, Option(help="Address to listen on; one that others reach needs --token.")]
Port = Annotated[int, Option(min=0, max=65535, help="0: any free one.")]
Token = Annotated[str | None, Option(help="Key in the page's link.", show_default="a random one")]
