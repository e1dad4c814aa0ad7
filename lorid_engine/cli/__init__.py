"""The command `lorid`: one function per subcommand, one line and status 2 for a user's mistake."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from lorid_engine.errors import LoridError

# Escape sequences and other control characters: what a model, a question or a file says must not steer the terminal.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_control(text: str) -> str:
    """The text without control characters but tab and line feed, and without lone surrogates."""
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """A message as one line."""
    return " ".join(without_control(text).split())


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{one_line(f'{self.prog}: {message}; see {self.prog} --help')}\n")


def _whole(least: int, most: int | None = None):
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 30) or not least <= int(text) <= (
            most or int(text)
        ):
            bound = f"from {least} to {most}" if most else f"of at least {least}"
            raise argparse.ArgumentTypeError(f"must be a whole number {bound}; got {text[:40]!r}")
        return int(text)

    return parse


def build_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = _Parser(prog="lorid", description="Word problems by three LoRA adapters on one frozen model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    solve = commands.add_parser("solve", help="solve one question", description="Solves one question and shows how.")
    solve.add_argument("question", nargs="?", help="the question; without it, it is read from stdin or asked for")
    solve.add_argument("--json", action="store_true", help="one JSON value on stdout, progress on stderr")
    solve.add_argument("--quiet", action="store_true", help="the answer alone")
    solve.add_argument("--pack", default=None, help="an installed pack's name, or a folder with a pack.toml")
    solve.add_argument("--device", default="cpu", help="cpu")
    solve.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    solve.add_argument("--threads", type=_whole(1, 1024), help="default: LORID_THREADS, or every core")
    solve.add_argument("--seed", type=_whole(0, 2**64 - 1), default=0)
    solve.add_argument("--max-rounds", type=_whole(1), default=20)
    solve.add_argument("--lookahead", type=_whole(0), default=4, help="rounds begun ahead of time; changes speed only")

    doctor = commands.add_parser("doctor", help="what this machine and installation can do")
    doctor.add_argument("--json", action="store_true", help="one JSON value on stdout")
    return parser


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
    if options.command == "doctor":
        from lorid_engine.cli.doctor import run_doctor

        return run_doctor(options)
    from lorid_engine.cli.solve import run_solve

    return run_solve(options)


def _drop_output() -> None:
    """Lets what is still buffered for stdout go nowhere, so that the interpreter's exit does not complain again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
