"""The command line's options; a command names the module that runs it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn, TypeVar

from lorid_engine.cli.plain_text import one_line

_Value = TypeVar("_Value")
# Of the benchmark, which is slow to import.
SHAPES = ("llama-2-7b", "mistral-7b", "smollm2-135m")
SPREADS = ("uniform", "zipf", "ir-dr")


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


def _from(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = _number(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a number of at least {least:g}; got {text[:40]!r}")
        return value

    return parse


def _add_solver_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pack", default=None, help="an installed pack's name, or a folder with a pack.toml")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:1 and so on; default: %(default)s")
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"), help="default: %(default)s"
    )
    parser.add_argument("--threads", type=_whole(1, 1024), help="default: LORID_THREADS, or every core")
    parser.add_argument("--seed", type=_whole(0, 2**64 - 1), default=0, help="default: %(default)s")
    parser.add_argument("--max-rounds", type=_whole(1), help="default: as the pack says; published: 20")
    lookahead = "rounds begun ahead of time; changes speed only; default: %(default)s"
    parser.add_argument("--lookahead", type=_whole(0), default=4, help=lookahead)
    for name, kind in (("temperature", _number), ("top-p", _number), ("top-k", _whole(0)), ("max-tokens", _whole(1))):
        parser.add_argument(f"--{name}", type=kind, help="of every role, instead of the pack's")
    parser.add_argument(
        "--calculator",
        action=argparse.BooleanOptionalAction,
        help="compute IR's and DR's arithmetic instead of drawing its digits; default: as the pack says",
    )


def _list_of(parse: Callable[[str], _Value]) -> Callable[[str], tuple[_Value, ...]]:
    return lambda text: tuple(parse(part) for part in text.split(","))


def _rank(text: str) -> tuple[int, ...]:
    return tuple(_whole(0, 4096)(part) for part in text.split("+"))


def _add_bench(commands: argparse._SubParsersAction[_Parser]) -> None:
    bench = commands.add_parser("bench", help="measure speed on this machine")
    actions = bench.add_subparsers(dest="action", required=True, metavar="ACTION")
    about = "Decode and prefill speed with random adapters, for every combination of rank, adapters and batch."
    decode = actions.add_parser("decode", help="tokens/s across adapters", description=about)
    decode.set_defaults(module="bench")
    base = decode.add_mutually_exclusive_group()
    base.add_argument("--base", help="a folder, a .gguf file, or a hub's model; default: the default pack's")
    base.add_argument("--random-shape", choices=SHAPES, help="random weights of this shape instead")
    decode.add_argument("--revision", help="of a hub's model")
    decode.add_argument(
        "--rank", type=_list_of(_rank), default="0,16,512", help="0 = none, 16+64 = a mix; default: %(default)s"
    )
    numbers = _list_of(_whole(1))
    decode.add_argument("--batch", type=numbers, default="1,2,8,32", help="rows of a step; default: %(default)s")
    decode.add_argument("--adapters", type=numbers, default="2", help="how many are loaded; default: %(default)s")
    decode.add_argument("--spread", choices=SPREADS, default="uniform", help="which the rows use")
    decode.add_argument("--targets", type=_list_of(str.strip), default="q_proj,v_proj", help="default: %(default)s")
    decode.add_argument("--prompt", type=_whole(1), default=128, help="tokens of a prompt; default: %(default)s")
    decode.add_argument("--new", type=_whole(1), default=48, help="decode steps that are timed; default: %(default)s")
    decode.add_argument(
        "--runs", type=_whole(5, 1000), default=5, help="whose medians are reported; default: %(default)s"
    )
    decode.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    decode.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:1 and so on; default: %(default)s")
    decode.add_argument("--threads", type=_whole(1, 1024), help="default: LORID_THREADS, or every core")
    decode.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0)
    decode.add_argument("--plot", metavar="FILE", help="tokens/s against adapters, as .svg, .png or .pdf")
    decode.add_argument("--json", action="store_true", help="a list of rows on stdout")

    _add_limits(actions)
    _add_tiles(actions)


def _add_tiles(actions: argparse._SubParsersAction[_Parser]) -> None:
    about = "Times the GPU kernels' tiles for every linear layer of a base and keeps the fastest: they change speed, never a bit."
    tiles = actions.add_parser("tiles", help="find the GPU kernels' fastest tiles", description=about)
    tiles.set_defaults(module="bench_tiles")
    base = tiles.add_mutually_exclusive_group(required=True)
    base.add_argument(
        "--base", help="a folder, a .gguf file, or a hub's model, whose config.json gives the layers' shapes"
    )
    base.add_argument("--random-shape", choices=SHAPES, help="one of these shapes instead")
    tiles.add_argument("--revision", help="of a hub's model")
    tiles.add_argument("--rank", type=_list_of(_whole(0, 512)), default="0,64,512", help="default: %(default)s")
    tiles.add_argument("--device", default="cuda", help="cuda, or cuda:1 and so on; default: %(default)s")
    tiles.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    tiles.add_argument("--out", metavar="FILE", help="default: tiles.json in the cache, which engines read")
    tiles.add_argument("--json", action="store_true", help="a list of rows on stdout")


def _add_limits(actions: argparse._SubParsersAction[_Parser]) -> None:
    about = "Memory, arithmetic, the thread pool, and the linear layers of a step with nothing around them: what decode can come near to."
    limits = actions.add_parser("limits", help="what this machine can do at best", description=about)
    limits.set_defaults(module="limits")
    base = limits.add_mutually_exclusive_group()
    base.add_argument("--base", metavar="FOLDER", help="whose config.json gives the layers' shapes")
    base.add_argument("--shape", choices=SHAPES, default="smollm2-135m", help="default: %(default)s")
    numbers = _list_of(_whole(1, 4096))
    limits.add_argument("--rows", type=numbers, default="1,2,8,32,128", help="of a step; default: %(default)s")
    limits.add_argument(
        "--runs", type=_whole(1, 1000), default=7, help="of which the best is reported; default: %(default)s"
    )
    limits.add_argument("--threads", type=_whole(1, 1024), help="default: LORID_THREADS, or every core")
    limits.add_argument("--json", action="store_true", help="one JSON value on stdout")


def _add_teach(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "Has a model behind an OpenAI-compatible server write the rules that each question needs. The same command goes on."
    teach = commands.add_parser("teach", help="have a model write knowledge for training", description=about)
    teach.set_defaults(module="teach")
    teach.add_argument(
        "--data", required=True, metavar="FILE", help="JSON lines with question and answer (a rationale)"
    )
    teach.add_argument("--out", required=True, metavar="FILE", help="knowledge by question, a line each")
    teach.add_argument("--model", required=True, help="its name at the server")
    teach.add_argument("--base-url", metavar="URL", help="of the server; default: OPENAI_BASE_URL, or OpenAI's")
    teach.add_argument("--limit", type=_whole(1), help="the first so many questions")
    teach.add_argument("--temperature", type=_from(0), default=0.2, help="default: %(default)s")
    teach.add_argument("--max-tokens", type=_whole(1), default=512, help="of an answer; default: %(default)s")
    teach.add_argument(
        "--concurrency", type=_whole(1, 1024), default=8, help="questions at a time; default: %(default)s"
    )
    attempts = "how often a question is asked until an answer can be used; default: %(default)s"
    teach.add_argument("--attempts", type=_whole(1, 100), default=3, help=attempts)
    retries = "of a request that the server refuses for now; waits double; default: %(default)s"
    teach.add_argument("--retries", type=_whole(0, 100), default=5, help=retries)
    teach.add_argument("--timeout", type=_from(0.1), default=120.0, help="seconds for a request; default: %(default)s")
    teach.add_argument("--retry-failed", action="store_true", help="ask again where the file has an error")
    teach.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, and count them")
    for name, what in (("in", "prompt"), ("out", "completion")):
        teach.add_argument(
            f"--price-{name}", type=_from(0), default=0.0, help=f"of a million {what} tokens, for the total"
        )


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = """Trains LoRA adapters of all roles in one run over one frozen base. The same command goes on where a run stopped.
    Under torchrun the processes share every step."""
    train = commands.add_parser("train", help="train the roles' adapters", description=about)
    train.set_defaults(module="train")
    train.add_argument("--base", help="a folder, a .gguf file, or a hub's model; default: the default pack's")
    train.add_argument("--revision", help="of a hub's model")
    train.add_argument(
        "--data", required=True, metavar="FILE", help="JSON lines with question and answer (a rationale)"
    )
    train.add_argument("--knowledge", metavar="FILE", help="JSON lines with id and knowledge; for kg and dr")
    train.add_argument(
        "--out", required=True, metavar="FOLDER", help="of the adapters, the pack and the run's own files"
    )
    train.add_argument("--start", metavar="FOLDER", help="begin from the adapters in its folders ir, kg and dr")
    train.add_argument("--roles", type=_list_of(str.strip), default="ir,kg,dr", help="default: %(default)s")
    train.add_argument("--rank", type=_whole(1, 4096), default=512, help="default: %(default)s")
    train.add_argument("--alpha", type=_number, help="default: twice the rank")
    train.add_argument("--dropout", type=_number, default=0.1, help="default: %(default)s")
    train.add_argument("--targets", type=_list_of(str.strip), default="q_proj,v_proj", help="default: %(default)s")
    train.add_argument("--lr", type=_number, default=5e-5, help="default: %(default)s")
    train.add_argument("--warmup", type=_number, default=0.03, help="share of the steps; default: %(default)s")
    train.add_argument("--epochs", type=_whole(1), default=5, help="default: %(default)s")
    train.add_argument("--batch-size", type=_whole(1), default=16, help="of each role; default: %(default)s")
    train.add_argument("--max-tokens", type=_whole(2), default=2048, help="longer examples are left out and counted")
    train.add_argument("--held-out", type=_whole(0), default=100, help="questions whose loss is reported alone")
    train.add_argument("--max-steps", type=_whole(1), help="end early")
    train.add_argument("--seed", type=_whole(0, 2**64 - 1), default=0, help="default: %(default)s")
    rows = "tokens of one forward and backward pass: memory and speed; default: 4096, on a GPU 32768"
    train.add_argument("--rows-per-pass", type=_whole(1), help=rows)
    train.add_argument("--recompute", action="store_true", help="gradient checkpointing: less memory, more time")
    train.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    dtype = "of base and activations; default: bfloat16 where the device multiplies it"
    train.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"), help=dtype)
    train.add_argument("--threads", type=_whole(1, 1024), help="default: LORID_THREADS, or every core")
    train.add_argument(
        "--drop-marks", action="store_true", help="leave out calculator marks, <<3+4=7>>, of the answers"
    )
    train.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, and count them")
    train.add_argument(
        "--save-every", type=_whole(0), default=300, help="seconds between checkpoints; default: %(default)s"
    )


def _add_pack_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    packs = commands.add_parser("packs", help="the installed packs", description="Lists the installed packs.")
    packs.set_defaults(module="packs")
    packs.add_argument("--json", action="store_true", help="one JSON value on stdout")

    pack = commands.add_parser("pack", help="make and check packs")
    actions = pack.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="look at all of a pack", description="Says what is wrong with a pack, and where."
    )
    check.set_defaults(module="packs")
    check.add_argument("folder", help="a folder with a pack.toml, or an installed pack's name")
    check.add_argument("--json", action="store_true", help="one JSON value on stdout")

    new = actions.add_parser("new", help="start a pack from a base and three adapters")
    new.set_defaults(module="packs")
    new.add_argument("folder", help="where the pack is written; must not exist, or be empty")
    _add_base(new)
    for role in ("ir", "kg", "dr"):
        new.add_argument(f"--{role}", required=True, metavar="FOLDER", help=f"the adapter of {role}, in PEFT's format")

    about = "Writes a pack for the adapters of LoRID's authors, from a clone of their repository, whose code is read and not run."
    authors = actions.add_parser("import-lorid", help="a pack for the authors' adapters", description=about)
    authors.set_defaults(module="packs")
    authors.add_argument("clone", help="a clone of the authors' repository")
    _add_base(authors)
    authors.add_argument("--dataset", required=True, choices=("gsm8k", "math"))
    authors.add_argument("--out", required=True, metavar="FOLDER", help="must not exist, or be empty")
    authors.add_argument(
        "--example", help="the authors' folder for such a base (llama2, mistral, ...), if its name does not tell"
    )
    authors.add_argument(
        "--adapters",
        metavar="FOLDER",
        help="holds the three adapters; without it, those that the clone's scripts trained, else the released ones, fetched",
    )


def _add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", required=True, help="a folder, a .gguf file, or a hub's model (organisation/name)")
    parser.add_argument("--revision", help="of a hub's model; default: main")


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

    _add_teach(commands)
    _add_train(commands)
    _add_pack_commands(commands)
    _add_bench(commands)

    doctor = commands.add_parser("doctor", help="what this machine and installation can do")
    doctor.set_defaults(module="doctor")
    doctor.add_argument("--json", action="store_true", help="one JSON value on stdout")
    return parser
