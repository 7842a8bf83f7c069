"""The command line: parse, call one public function, print. `--help` loads no torch."""

from __future__ import annotations

import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer import Option

from tinysight import __version__
from tinysight.cli import (
    data,
    evaluate,
    finetune,
    people,
    predict,
    quickstart,
    report,
    serve,
    study,
    train,
)

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP,
    help="Train small-image classifiers from scratch, localize objects, explain errors, export.",
    epilog="Begin with:  tinysight quickstart",
)
app.add_typer(data.app, name="data", context_settings=HELP)
app.add_typer(people.app, name="people", context_settings=HELP)
COMMANDS: tuple[Callable[..., None], ...] = (
    quickstart.quickstart,
    finetune.finetune,
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
    serve.serve,
    people.quiz,
)


def _with_status(command: Callable[..., None]) -> Callable[..., None]:
    """Exit with 128 + the signal's number where a training was stopped: typer exits with 130."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as interrupt:
            number = getattr(interrupt, "signal_number", signal.SIGINT)
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                os._exit(128 + number)  # at once: waiting for the other processes would hang
            raise SystemExit(128 + number) from None

    return run


for command in COMMANDS:
    app.command(context_settings=HELP)(_with_status(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


class _Messages(logging.Handler):
    """Print the library's messages to the error stream, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        try:
            print(prefix + record.getMessage(), file=sys.stderr)
        except BrokenPipeError:  # the reader has ended, as in `tinysight train ... 2>&1 | tee`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


MESSAGES = _Messages(logging.INFO)


def main() -> None:
    """Run the command line; an error that the user can fix becomes one line and exit status 1."""
    logger = logging.getLogger("tinysight")
    logger.addHandler(MESSAGES)  # once, however often this is called
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        app(prog_name="tinysight")
    except BrokenPipeError:  # `tinysight recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        _fail(error)
    except RuntimeError as error:  # torch reports a lack of memory so; any other is a bug of ours
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        _fail(ValueError("out of memory; lower train.batch_size, or choose a smaller model"))
    except KeyboardInterrupt:
        sys.exit(130)


_ELSEWHERE = "; name another file or folder, for runs by TINYSIGHT_RUNS"
_HINTS = {
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EEXIST: "; it is a file where a folder is needed; name another",
    errno.ENOTDIR: "; a part of this path is a file where a folder is needed; name another",
    errno.EISDIR: "; it is a folder where a file is needed; name another",
}


def _fail(error: Exception) -> None:
    text = " ".join(str(error).split()) or repr(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        text += _HINTS.get(error.errno or 0, "")
    print(f"error: {text}", file=sys.stderr)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stderr.flush()
        os._exit(1)  # at once: waiting for the other processes would hang
    sys.exit(1)
