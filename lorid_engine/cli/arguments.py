"""The command line's options; a command names the module that runs it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from lorid_engine.cli.plain_text import one_line


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{one_line(f'{self.prog}: {message}; see {self.prog} --help')}\n")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 30) or not least <= int(text) <= (
            most or int(text)
        ):
            bound = f"from {least} to {most}" if most else f"of at least {least}"
            raise argparse.ArgumentTypeError(f"must be a whole number {bound}; got {text[:40]!r}")
        return int(text)

    return parse


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number; got {text[:40]!r}")
    return value


def _add_solver_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pack", default=None, help="an installed pack's name, or a folder with a pack.toml")
    parser.add_argument("--device", default="cpu", help="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--threads", type=_whole(1, 1024), help="default: LORID_THREADS, or every core")
    parser.add_argument("--seed", type=_whole(0, 2**64 - 1), default=0)
    parser.add_argument("--max-rounds", type=_whole(1), default=20)
    parser.add_argument("--lookahead", type=_whole(0), default=4, help="rounds begun ahead of time; changes speed only")
    for name, kind in (("temperature", _number), ("top-p", _number), ("top-k", _whole(0)), ("max-tokens", _whole(1))):
        parser.add_argument(f"--{name}", type=kind, help="of every role, instead of the pack's")


def build_parser() -> argparse.ArgumentParser:
    """The parser; parsed options have `module`, the one of this package that runs the command."""
    parser = _Parser(prog="lorid", description="Word problems by three LoRA adapters on one frozen model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    solve = commands.add_parser("solve", help="solve one question", description="Solves one question and shows how.")
    solve.set_defaults(module="solve")
    solve.add_argument("question", nargs="?", help="the question; without it, it is read from stdin or asked for")
    solve.add_argument("--json", action="store_true", help="one JSON value on stdout, progress on stderr")
    solve.add_argument("--quiet", action="store_true", help="the answer alone")
    _add_solver_options(solve)

    about = "Solves a file of questions and reports how many are right, next to what the roles do without the loop."
    evaluate = commands.add_parser("eval", help="solve a file of questions and report", description=about)
    evaluate.set_defaults(module="evaluate")
    evaluate.add_argument(
        "--data",
        required=True,
        metavar="FILE|HUB-ID",
        help="JSON lines with question and answer, or input and target; or a hub's data set, organisation/name[:configuration]",
    )
    evaluate.add_argument("--out", required=True, metavar="FILE", help="results, a line each; the same command resumes")
    evaluate.add_argument("--limit", type=_whole(1), help="the first so many questions")
    evaluate.add_argument("--split", default="test", help="of a hub's data set")
    evaluate.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be read, and count them")
    evaluate.add_argument("--no-baselines", action="store_true", help="LoRID alone, without what it is compared with")
    evaluate.add_argument("--report", metavar="FILE", help="a page of HTML with plots and every question's rounds")
    evaluate.add_argument("--json", action="store_true", help="the report as one JSON value on stdout")
    _add_solver_options(evaluate)

    doctor = commands.add_parser("doctor", help="what this machine and installation can do")
    doctor.set_defaults(module="doctor")
    doctor.add_argument("--json", action="store_true", help="one JSON value on stdout")
    return parser
