"""`lorid solve`: one question, with its rounds as they happen."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from lorid_engine.cli.trace import FetchProgress, LiveTrace, PlainTrace, plain
from lorid_engine.errors import RequestError
from lorid_engine.solver.packs import DEFAULT_PACK, load_pack

if TYPE_CHECKING:
    from lorid_engine.solver import Solution, SolverConfig


def run(options: argparse.Namespace) -> int:
    """Solves the question that the options, stdin or the user give; returns the exit status."""
    pack_name = options.pack or DEFAULT_PACK
    pack = load_pack(pack_name)  # a wrong name is told before anything is loaded or asked
    question = _read_question(options.question)
    out = Console(stderr=options.json, highlight=False)
    out.soft_wrap = not out.is_terminal  # plain lines are as long as they are
    silent = options.quiet or (options.json and not out.is_terminal)
    if not silent:
        out.print(plain(f"Pack {pack.name}" + (f": {pack.accuracy}." if pack.accuracy else ".")), style="dim")
        if out.is_terminal:
            out.print("Loading the base and its adapters.", style="dim")
    with FetchProgress(Console(stderr=True)) as report:
        from lorid_engine.solver import Solver

        solver = Solver.from_pack(
            pack_name,
            config=solver_config(options),
            dtype=options.dtype,
            device=options.device,
            threads=options.threads,
            report=report,
        )
    if silent:
        solution = solver.solve(question)
    else:
        with (LiveTrace if out.is_terminal else PlainTrace)(out) as trace:
            solution = solver.solve(question, on_event=trace)
    _print_solution(options, out, solution)
    return 0


def solver_config(options: argparse.Namespace) -> SolverConfig:
    """The configuration that the options of a command ask for."""
    from lorid_engine.solver import SolverConfig

    names = ("max_rounds", "lookahead", "seed", "temperature", "top_p", "top_k", "max_tokens", "calculator")
    return SolverConfig(**{name: getattr(options, name) for name in names})


def _read_question(given: str | None) -> str:
    if given is None:
        given = _read_stdin()
    if not given.strip():
        raise RequestError(
            'the question is empty; for example: lorid solve "Tom has 3 apples and buys 4. How many has he?"'
        )
    return given.strip()


def _read_stdin() -> str:
    if sys.stdin is None:
        return ""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.read()
        return Console(stderr=True).input("Question: ")
    except EOFError:
        return ""
    except UnicodeDecodeError as error:
        raise RequestError(f"the question on stdin is not text in UTF-8: {error}") from None


def _print_solution(options: argparse.Namespace, out: Console, solution: Solution) -> None:
    if options.json:
        print(json.dumps(solution.to_dict(), ensure_ascii=True))
        return
    if options.quiet:
        print(plain(solution.answer or "").plain)
        return
    answer = solution.answer if solution.answer is not None else "none found"
    how = "IR and DR agree" if solution.agreed else "no agreement; the answer with most votes"
    rounds = f"{solution.rounds} round{'s' if solution.rounds > 1 else ''}"
    drawn = solution.tokens + solution.cancelled_tokens
    speed = f"{drawn / solution.seconds:.0f} tokens/s" if solution.seconds else ""
    out.print(plain(f"Answer: {answer}"), style="bold green" if solution.agreed else "bold yellow")
    extra = f" (and {solution.cancelled_tokens} ahead of time)" if solution.cancelled_tokens else ""
    out.print(
        plain(f"{how}; {rounds}, {solution.tokens} tokens{extra}, {solution.seconds:.1f} s, {speed}"), style="dim"
    )
