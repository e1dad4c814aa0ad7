"""The command `lorid`: one function per subcommand, one line and status 2 for a user's mistake."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lorid_engine.errors import LoridError


def _whole(least: int):
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}; got {text!r}")
        return int(text)

    return parse


def build_parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="lorid", description="Word problems by three LoRA adapters on one frozen model."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    solve = commands.add_parser("solve", help="solve one question", description="Solves one question and shows how.")
    solve.add_argument("question", nargs="?", help="the question; without it, it is read from stdin or asked for")
    solve.add_argument("--json", action="store_true", help="one JSON value on stdout, progress on stderr")
    solve.add_argument("--quiet", action="store_true", help="the answer alone")
    solve.add_argument("--pack", default=None, help="an installed pack's name, or a folder with a pack.toml")
    solve.add_argument("--device", default="cpu", help="cpu")
    solve.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    solve.add_argument("--threads", type=_whole(1), help="default: LORID_THREADS, or every core")
    solve.add_argument("--seed", type=_whole(0), default=0)
    solve.add_argument("--max-rounds", type=_whole(1), default=20)
    solve.add_argument("--lookahead", type=_whole(0), default=4, help="rounds begun ahead of time; changes speed only")

    doctor = commands.add_parser("doctor", help="what this machine and installation can do")
    doctor.add_argument("--json", action="store_true", help="one JSON value on stdout")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "doctor":
            from lorid_engine.cli.doctor import run_doctor

            return run_doctor(options)
        from lorid_engine.cli.solve import run_solve

        return run_solve(options)
    except LoridError as error:
        print(f"lorid: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lorid: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing more to say to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
