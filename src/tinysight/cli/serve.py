"""The command that opens a page on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from tinysight.cli.arguments import Host, Port, Threshold, Token


def serve(
    model: Annotated[
        str | None,
        Argument(metavar="[MODEL]", help="Run or weights file.", show_default="the bundled model"),
    ] = None,
    folder: Annotated[
        Path, Option(help="Where the classes that are taught on the page are kept.")
    ] = Path("pictures"),
    host: Host = "127.0.0.1",
    port: Port = 0,
    token: Token = None,
    threshold: Threshold = None,
) -> None:
    """Open a page on this computer where pictures are answered, and classes of your own taught.

    \b
    Examples:
      tinysight serve
      tinysight serve small-pets --port 8000
      tinysight serve --folder ~/Pictures/pets
    """
    import tinysight as ts

    options: dict[str, Any] = {"host": host, "port": port, "token": token}
    options["started"] = lambda link: print(f"{link}\nCtrl-C ends it", flush=True)
    ts.serve(model, folder=folder, threshold=threshold, **options)
