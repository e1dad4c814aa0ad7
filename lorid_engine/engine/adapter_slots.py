"""AdapterSlots: which loaded adapter lies in which slot of the runner."""

from __future__ import annotations

import itertools
from typing import Protocol

from lorid_engine.errors import AdapterError
from lorid_engine.model.adapters import LoraAdapter

NUM_SLOTS = 128


class AdapterRunner(Protocol):
    """What the slots need of a runner."""

    def load_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        """Puts an adapter into a free slot, in place of whatever an interrupted load or unload left there."""

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot."""


class AdapterSlots:
    """Adapters by name. A name counts as loaded only while its adapter is in its slot, wherever an interrupt falls."""

    def __init__(self, runner: AdapterRunner) -> None:
        self._runner = runner
        self._slots: dict[str, int] = {}
        self._roots: dict[str, bytes] = {}
        self._loads = itertools.count(1)

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded adapters."""
        return tuple(self._slots)

    def find_free(self, name: str) -> int:
        """A slot for a new name; raises AdapterError if the name is taken or every slot is."""
        if name in self._slots:
            raise AdapterError(f"an adapter named {name!r} is loaded already; delete it first")
        used = set(self._slots.values())
        slot = next((slot for slot in range(NUM_SLOTS) if slot not in used), None)
        if slot is None:
            raise AdapterError(f"all {NUM_SLOTS} adapter slots are in use; delete an adapter first")
        return slot

    def load(self, name: str, slot: int, adapter: LoraAdapter) -> None:
        """Puts an adapter into the slot that find_free gave."""
        self._runner.load_adapter(slot, adapter)
        self._roots[name] = b"adapter %d" % next(self._loads)
        self._slots[name] = slot

    def delete(self, name: str) -> None:
        """Empties a name's slot; no sequence may use it."""
        slot = self.slot(name)
        del self._slots[name]
        self._runner.unload_adapter(slot)

    def slot(self, name: str) -> int:
        """A loaded adapter's slot; raises AdapterError, with the names that are loaded, for another name."""
        if name not in self._slots:
            loaded = ", ".join(map(repr, self._slots)) or "none"
            raise AdapterError(f"there is no adapter {name!r}; loaded: {loaded}")
        return self._slots[name]

    def root(self, name: str) -> bytes:
        """Names this load of the adapter in the hashes of pages: another load under the same name shares none of them."""
        return self._roots[name]
