"""`lorid teach`: knowledge of a file of questions, by a model behind a server."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lorid_engine.cli.trace import plain
from lorid_engine.errors import ConfigError
from lorid_engine.train.examples import read_questions

_SECONDS_BETWEEN_LINES = 10.0


def run(options: argparse.Namespace) -> int:
    """Teaches; returns the exit status."""
    try:
        from lorid_engine.teach.run import KnowledgeFile, Taught, left_to_teach, teach
        from lorid_engine.teach.teacher import TeacherOptions, Usage
    except ImportError as error:
        raise ConfigError(
            f"`lorid teach` needs the package openai ({error}): pip install 'lorid-engine[teach]'"
        ) from None
    console = Console(stderr=True, highlight=False)
    skipped: list[str] = []
    questions = read_questions(Path(options.data), skipped if options.skip_bad else None)
    settings = TeacherOptions(
        model=options.model,
        base_url=options.base_url,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        attempts=options.attempts,
        retries=options.retries,
        timeout=options.timeout,
    )
    usage, failed, last = Usage(), [0], [""]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    with KnowledgeFile(Path(options.out), questions, retry_failed=options.retry_failed) as file:
        left = left_to_teach(questions[: options.limit], file)
        total, known = len(left), len(file.known)
        if skipped:
            console.print(plain(f"{len(skipped)} rows were skipped; the first: {skipped[0]}"), soft_wrap=True)
        if known:
            again = " --retry-failed asks for those again." if file.failed and not options.retry_failed else ""
            console.print(
                f"{options.out} has {known} questions, {len(file.failed)} of them failed; {total} are left.{again}",
                soft_wrap=True,
            )
        task = bar.add_task("teaching", total=total, state="")
        done, said = [0], [0.0]

        def tell(taught: Taught) -> None:
            done[0] += 1
            usage.prompt_tokens += taught.usage.prompt_tokens
            usage.completion_tokens += taught.usage.completion_tokens
            if taught.error is not None:
                failed[0] += 1
                last[0] = f"question {taught.question.id}: {taught.error}"
            bar.update(task, advance=1, state=f"{failed[0]} failed" if failed[0] else "")
            if not console.is_terminal and time.monotonic() - said[0] > _SECONDS_BETWEEN_LINES:
                said[0] = time.monotonic()
                console.print(f"{done[0]} of {total}, {failed[0]} failed")

        try:
            with bar:
                teach(left, file, settings, concurrency=options.concurrency, tell=tell)
        finally:
            cost = usage.cost(options.price_in, options.price_out)
            price = f", {cost:.2f} at these prices" if options.price_in or options.price_out else ""
            console.print(
                f"{done[0]} questions, {failed[0]} failed; {usage.prompt_tokens} tokens in, "
                f"{usage.completion_tokens} out{price}. {options.out} has {len(file.known)} questions.",
                soft_wrap=True,
            )
            if last[0]:
                console.print(plain(f"The last failure: {last[0]}"), soft_wrap=True)
    return 0
