"""What a person sees while a question is solved: live panels on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.text import Text

from lorid_engine.cli.plain_text import without_control
from lorid_engine.solver.solution import Event, Round, RoundEvent, TextEvent

_TITLES = {"ir": "Intuitive reasoner", "kg": "Rules", "dr": "Deep reasoner"}


def plain(text: str) -> Text:
    """Text that is shown as it is: no markup, no control characters, no lone surrogates."""
    return Text(without_control(text))


class FetchProgress:
    """A progress bar for a base that is fetched and converted; shows nothing if nothing is."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._console, self._tasks = console, dict[str, TaskID]()

    def __enter__(self) -> FetchProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            if not self._tasks:
                self._progress.start()
            if not self._console.is_terminal:
                self._console.print(f"{what}" + (f" ({total / 1e6:.0f} MB)" if total > 1 else ""), markup=False)
            self._tasks[what] = self._progress.add_task(what, total=total or None)
        self._progress.update(self._tasks[what], completed=done, total=total or None)


def _describe(round: Round, agreed: str | None) -> str:
    answers = f"IR says {round.ir.answer or 'nothing'}, DR says {round.dr.answer or 'nothing'}"
    return f"Round {round.number}: {answers}" + (f". Agreement: {agreed}" if agreed is not None else "")


class PlainTrace:
    """Prints each round when it is judged, as lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> PlainTrace:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, RoundEvent):
            return
        for role in ("ir", "kg", "dr"):
            sample = getattr(event.round, role)
            self._console.print(plain(f"[round {event.round.number}] {_TITLES[role]}:"))
            self._console.print(plain(sample.note or sample.text))
        self._console.print(plain(_describe(event.round, event.agreed)))


class LiveTrace:
    """Shows the current round as it is written, rationales side by side; judged rounds scroll away above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._texts: dict[tuple[int, str], str] = {}
        self._current = 1
        self._start = time.perf_counter()
        self._tokens = 0

    def __enter__(self) -> LiveTrace:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, TextEvent):
            self._tokens += 1  # one event a token
            self._texts[event.round, event.role] = event.text
            if event.round == self._current:
                self._live.update(self._render())
            return
        round = event.round
        shown = {role: getattr(round, role).note or getattr(round, role).text for role in _TITLES}
        self._console.print(self._panels(round.number, shown))
        style = "green" if event.agreed is not None else "yellow"
        self._console.print(plain(_describe(round, event.agreed)), style=style)
        self._current = round.number + 1
        self._live.update(self._render())

    def _render(self) -> RenderableType:
        texts = {role: self._tail(self._texts.get((self._current, role), ""), role) for role in _TITLES}
        speed = self._tokens / max(time.perf_counter() - self._start, 1e-3)
        return Group(self._panels(self._current, texts), Text(f"{speed:.0f} tokens/s", style="dim"))

    def _tail(self, text: str, role: str) -> str:
        """The end of a text that grows: what fits beside the other panels on the screen."""
        width = max(20, self._console.width // (1 if role == "kg" else 2) - 5)
        rows = max(2, (self._console.height - 7) // 2)  # two panels with their borders, and a line for the speed
        lines = plain(text).wrap(self._console, width)
        return text if len(lines) <= rows else "\n".join(line.plain for line in lines[-rows:])

    def _panels(self, number: int, texts: dict[str, str]) -> RenderableType:
        half = max(20, self._console.width // 2 - 1)
        rules = Panel(plain(texts["kg"]), title=f"Round {number}: {_TITLES['kg']}", border_style="magenta")
        sides = [
            Panel(plain(texts[role]), title=_TITLES[role], border_style=colour, width=half)
            for role, colour in (("ir", "cyan"), ("dr", "blue"))
        ]
        return Group(rules, Columns(sides, padding=(0, 1)))
