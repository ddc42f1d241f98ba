"""The command line: one command a file; options.py is theirs.

A command parses, calls one function of a room and prints. No logic.

A command's module is imported when that command is asked for, and torch only inside the commands that need
it, so that `fmshards --help` answers at once.

extract.py, status.py, plan.py, verify.py, bench.py, inspect.py, cuts.py, doctor.py: the commands
options.py   what several of them share
signals.py   what ends a command before it is done
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from typing import TextIO

import click

from fmshards import __version__
from fmshards.cli.signals import Interrupt
from fmshards.errors import FmshardsError, StoppedError, StoreError, TransientError, WorkerDiedError

_COMMANDS = {
    "cuts": "list where a model can be cut, and what a feature costs there",
    "doctor": "say which codec engine runs here, why, and how fast",
    "extract": "run the frozen layers once over a data set and write a shard set",
    "plan": "find the cut, codec, rate and mirror that serve a data set and a model",
    "inspect": "say what a shard set holds",
    "status": "say how far an extraction is, and who is at work on it",
    "verify": "read a whole shard set and check every byte",
    "bench": "stream a shard set without a trainer, and say what limits it",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fmshards.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fmshards")
def cli() -> None:
    """Run the frozen part of a network once; train the rest from its stored features."""


def main() -> None:
    """Entry point: an error of ours is one line on stderr. Exit codes are those of sysexits.h, for schedulers:

    65 what was given cannot be used: options, input, model, the set that is there; 74 a disk or store refuses; 75 run
    the same again: it was stopped as asked, a store did not answer, a worker was killed; 70 our fault; 2 a wrong
    command line; 130 Ctrl-C.
    """
    warnings.showwarning = _warn
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, Interrupt())
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except FmshardsError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_exit_code(error))
    except BrokenPipeError:
        sys.exit(141)
    except Exception:
        traceback.print_exc()
        sys.exit(os.EX_SOFTWARE)


def _exit_code(error: FmshardsError) -> int:
    if isinstance(error, (StoppedError, TransientError, WorkerDiedError)):
        return os.EX_TEMPFAIL
    return os.EX_IOERR if isinstance(error, StoreError) else os.EX_DATAERR


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line without the place in our code, which means nothing to a user; other libraries' warnings stay out."""
    if issubclass(category, UserWarning):
        click.echo(f"warning: {message}", err=True)
