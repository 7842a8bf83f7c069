"""The command line: parse, call one function, print. Heavy imports stay inside the commands: --help
is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from tinysight.cli import data, evaluate, predict, report, study, train

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train recognizers of small images from scratch, find what is where in them, see why they err, and ship them.",
    epilog="Begin with:  tinysight train quickstart --data shapes",
)
app.add_typer(data.app, name="data")
COMMANDS: tuple[Callable[..., None], ...] = (
    train.recipes,
    train.train,
    train.resume,
    study.studies,
    study.study,
    evaluate.evaluate,
    predict.predict,
    report.report,
    predict.submit,
    evaluate.export,
    predict.ensemble,
    predict.bench,
    predict.version,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line; what a person can put right becomes one line and exit status 1."""
    try:
        app()
    except BrokenPipeError:  # `tinysight recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        _fail(error)
    except (
        RuntimeError
    ) as error:  # torch's, for want of memory; any other is a fault of ours and shows its traceback
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        _fail(
            ValueError(
                "the memory does not suffice; lower train.batch_size, or take a smaller model"
            )
        )
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: Exception) -> None:
    text = " ".join(str(error).split()) or repr(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    print(f"error: {text}", file=sys.stderr)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stderr.flush()
        os._exit(1)  # at once: waiting for the other processes would hang
    sys.exit(1)
