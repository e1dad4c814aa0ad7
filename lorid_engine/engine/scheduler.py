"""Scheduler: which rows run in a step, and in which pages their keys and values lie."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from lorid_engine.engine.pages import PAGE_SIZE, PagePool
from lorid_engine.engine.sequence import Sequence

MOST_WAITS = 32


@dataclass
class Plan:
    """A step: how many tokens of which sequences, and the page copies that come first."""

    rows: list[tuple[Sequence, int]] = field(default_factory=list)
    page_copies: list[tuple[int, int]] = field(default_factory=list)
    starved: Sequence | None = None  # alone, and out of pages: it can never go on


class Scheduler:
    """Runs the first max_rows live sequences by (priority, arrival, sample) every step, decodes before prefill chunks.

    Sequences past them keep their pages until somebody before them needs one; then the last one gives up all of its pages
    and later computes its tokens again (preemption: nothing is dropped).

    While at least half of the rows decode, prefills wait until `gather` of them can share a step, at most MOST_WAITS steps: on
    a GPU a step with a prefill is launched kernel by kernel, which takes several times as long as replaying a recorded one.
    """

    def __init__(self, pool: PagePool, max_rows: int, max_tokens: int, gather: int = 1) -> None:
        self.pool = pool
        self._gather, self._waits = gather, 0
        self._max_rows, self._max_tokens = max_rows, max_tokens
        self.live: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Makes a sequence live."""
        insort(self.live, sequence, key=lambda other: other.order)

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence: its pages go back to the pool."""
        if sequence in self.live:
            self.live.remove(sequence)
        sequence.drop_pages(self.pool)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets a sample share the pages of its prompt, all but the prompt's last token, whose logits it needs itself."""
        child.computed = len(child.group.prompt_ids) - 1
        for page in parent.pages[: -(-child.computed // PAGE_SIZE)]:
            self.pool.share(page)
            child.add_page(page)
        child.waits_for_prompt = False
        self.add(child)

    def schedule(self) -> Plan:
        """Chooses the step's rows and takes their pages. A sequence's own tokens never depend on the choice."""
        plan, scheduled = Plan(), set[int]()
        chosen = self.live[: self._max_rows]
        decodes, prefills = [s for s in chosen if s.remaining == 1], [s for s in chosen if s.remaining > 1]
        waits = self._wait(len(decodes), prefills)
        self._choose(decodes, plan, scheduled)
        if not waits or not plan.rows:
            self._choose(prefills, plan, scheduled)
        if not plan.rows and chosen:
            plan.starved = chosen[0]
        plan.rows.sort(key=lambda row: (row[0].group.slot, row[0].order))
        return plan

    def _wait(self, decodes: int, prefills: list[Sequence]) -> bool:
        """Whether the prefills wait in this step; never where one has begun."""
        waits = (
            0 < len(prefills) < self._gather
            and 2 * decodes >= self._max_rows
            and self._waits < MOST_WAITS
            and not any(sequence.computed for sequence in prefills)
        )
        self._waits = self._waits + 1 if waits else 0
        return waits

    def _choose(self, sequences: list[Sequence], plan: Plan, scheduled: set[int]) -> None:
        """Adds the sequences' next tokens to the plan, as many as there is room for."""
        budget = self._max_tokens - sum(count for _, count in plan.rows)
        for sequence in sequences:
            if budget == 0:
                break
            if sequence.computed == 0 and not sequence.pages:
                self._share_prefix(sequence)
            count = self._reserve(sequence, min(sequence.remaining, budget), plan, scheduled)
            if count:
                plan.rows.append((sequence, count))
                scheduled.add(id(sequence))
                self._register(sequence, sequence.computed + count)
                budget -= count

    def _share_prefix(self, sequence: Sequence) -> None:
        """Takes over the full pages that hold the sequence's beginning, also those that this very step fills.

        Every layer writes all rows' keys and values before any row attends, so a page filled in a step can be read in it.
        """
        for number in range((len(sequence.tokens) - 1) // PAGE_SIZE):
            page = self.pool.find(sequence.page_hash(number))
            if page is None:
                break
            self.pool.share(page)
            sequence.add_page(page)
        sequence.computed = len(sequence.pages) * PAGE_SIZE
        reused = min(sequence.computed, len(sequence.group.prompt_ids))
        sequence.group.cached_tokens = max(sequence.group.cached_tokens, reused)

    def _reserve(self, sequence: Sequence, count: int, plan: Plan, scheduled: set[int]) -> int:
        """Makes pages for the next `count` tokens, fewer if there is no room; preempts sequences that come later."""
        last = len(sequence.pages) - 1
        if sequence.computed < len(sequence.pages) * PAGE_SIZE and self.pool.references(sequence.pages[last]) > 1:
            copy = self._take(sequence, scheduled)
            if copy is None:
                return 0
            shared = sequence.pages[last]
            plan.page_copies.append((shared, copy))
            sequence.replace_last_page(copy)
            self.pool.release(shared)
        while len(sequence.pages) * PAGE_SIZE < sequence.computed + count:
            page = self._take(sequence, scheduled)
            if page is None:
                return max(0, len(sequence.pages) * PAGE_SIZE - sequence.computed)
            sequence.add_page(page)
        return count

    def _take(self, sequence: Sequence, scheduled: set[int]) -> int | None:
        page = self.pool.take()
        while page is None:
            victim = next((s for s in reversed(self.live) if s.pages and id(s) not in scheduled), None)
            if victim is None or victim.order <= sequence.order:
                return None
            victim.drop_pages(self.pool)
            self.preemptions += 1
            page = self.pool.take()
        return page

    def _register(self, sequence: Sequence, computed: int) -> None:
        for number in range(sequence.computed // PAGE_SIZE, computed // PAGE_SIZE):
            self.pool.register(sequence.pages[number], sequence.page_hash(number))

    def reset(self, live: list[Sequence]) -> None:
        """After a step that failed half-way: nothing in the pages counts; only these sequences go on, and hold none."""
        self.pool.reset()
        self.live = sorted(live, key=lambda sequence: sequence.order)
