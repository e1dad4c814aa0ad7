"""The command `lorid`: one function per subcommand, one line and status 2 for a user's mistake."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence

from lorid_engine.cli.arguments import build_parser
from lorid_engine.cli.plain_text import one_line
from lorid_engine.errors import LoridError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0; 2 for a user's mistake, 130 for Ctrl-C,
    141 where the reader of the output has gone, 1 where it cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every letter
    options = build_parser().parse_args(arguments)
    try:
        status = _run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except LoridError as error:
        print(f"lorid: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lorid: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing more to say to it
        _drop_output()
        return 141
    except OSError as error:
        print(f"lorid: {one_line(str(error))}", file=sys.stderr)
        _drop_output()
        return 1


def _run(options: argparse.Namespace) -> int:
    module = importlib.import_module(f"lorid_engine.cli.{options.module}")
    return module.run(options)


def _drop_output() -> None:
    """Lets what is still buffered for stdout go nowhere, so that the interpreter's exit does not complain again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
