"""A runner that simulates the KV store, so that a wrong page table gives wrong tokens; and a tokenizer of single bytes."""

from __future__ import annotations

import hashlib
import sys
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from lorid_engine.engine import Engine, Request
from lorid_engine.engine.batch import StepBatch, StepResult
from lorid_engine.engine.sequence import philox_key
from lorid_engine.engine.tokenizer import Tokenizer

SPECIAL = {"<|start|>": 256, "<|end|>": 257}
EOS = 257
VOCAB = 258


def byte_tokenizer(*, bos: bool = False) -> Tokenizer:
    """Every byte is a token; <|start|> and <|end|> are special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = tokenizers.Tokenizer(models.BPE(vocab={char: id for id, char in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    if bos:
        rust.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[("<|start|>", SPECIAL["<|start|>"])]
        )
    return Tokenizer(rust, dict(SPECIAL), EOS)


def next_token(adapter: str | None, tokens: list[int], key: int, counter: tuple[int, int], temperature: float) -> int:
    """What the fake model says: a hash of all that a real one would depend on."""
    drawn = (key, *counter) if temperature else ()
    return hashlib.sha256(repr((adapter, tokens, drawn)).encode()).digest()[0] % 64


class FakeRunner:
    """Keeps the token of every place in every page; each draw reads its sequence back through the block table."""

    def __init__(self, num_pages: int) -> None:
        self.pages = np.full((num_pages, 16), -1, np.int64)
        self.adapters: dict[int, str] = {}
        self.fail_next: BaseException | None = None
        self.rows: list[int] = []
        self.computed = 0

    def load_adapter(self, slot: int, adapter: Any) -> None:
        assert slot not in self.adapters
        self.adapters[slot] = adapter.name

    def unload_adapter(self, slot: int) -> None:
        del self.adapters[slot]

    def run(self, batch: StepBatch) -> StepResult:
        for source, target in batch.page_copies:
            self.pages[target] = self.pages[source]
        owner = np.repeat(np.arange(len(batch.block_table)), np.diff(batch.query_offset))
        for row, b in enumerate(owner):
            position = batch.positions[row]
            page = batch.block_table[b, position // 16]
            assert page >= 0
            self.pages[page, position % 16] = batch.token_ids[row]
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        slots = np.repeat(batch.seg_slot, np.diff(batch.seg_offset))
        tokens = []
        for k, row in enumerate(batch.sample_rows):
            position = int(batch.positions[row])
            table = batch.block_table[owner[row]]
            seen = [int(self.pages[table[p // 16], p % 16]) for p in range(position + 1)]
            adapter = self.adapters.get(int(slots[row]))
            counter = (int(batch.philox_counter[k, 0]), int(batch.philox_counter[k, 1]))
            tokens.append(next_token(adapter, seen, int(batch.philox_key[k]), counter, float(batch.temperature[k])))
        self.rows.append(len(batch.block_table))
        self.computed += len(batch.token_ids)
        count = max(batch.num_logprobs, 0)
        return StepResult(
            np.array(tokens, np.int32),
            np.full(len(tokens), -0.5, np.float32),
            np.ones(len(tokens), np.int32),
            np.tile(np.arange(count, dtype=np.int32), (len(tokens), 1)),
            np.zeros((len(tokens), count), np.float32),
        )


class InterruptAt:
    """Raises KeyboardInterrupt in place of the engine's n-th line from now on, as Ctrl-C can."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, argument: object) -> InterruptAt | None:
        if "lorid_engine" not in frame.f_code.co_filename or frame.f_code.co_name == "step":
            return None  # step's own lines hand over what is done: who is interrupted there has it or has it not
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def fake_engine(
    num_pages: int = 64,
    max_batch_rows: int = 8,
    max_batch_tokens: int = 32,
    adapters: tuple[str, ...] = (),
    bos: bool = False,
    gather: int = 1,
) -> tuple[Engine, FakeRunner]:
    """An engine over the fake runner, with adapters that are only names."""
    engine, runner = Engine.__new__(Engine), FakeRunner(num_pages)
    config = SimpleNamespace(vocab_size=VOCAB, max_positions=200, eos_token_ids=(EOS,))
    engine._start(runner, byte_tokenizer(bos=bos), config, num_pages, max_batch_rows, max_batch_tokens, gather)
    for slot, name in enumerate(adapters):
        engine._adapters.load(name, slot, SimpleNamespace(name=name))  # type: ignore[arg-type]
    return engine, runner


def oracle(request: Request, prompt: list[int], index: int, max_positions: int = 200) -> list[int]:
    """The tokens of sample `index`, one after another, with nothing else in the world."""
    params = request.sampling
    key, tokens, tokenizer = philox_key(params.seed or 0, request.key), list(prompt), byte_tokenizer()
    replace = request.replace_token or (lambda text, token: token)
    while True:
        token = next_token(request.adapter, tokens, key, (index, len(tokens)), params.temperature)
        tokens.append(replace(tokenizer.decode(tokens[len(prompt) :]), token))
        drawn = tokens[len(prompt) :]
        if tokens[-1] in params.stop_token_ids or len(drawn) >= params.max_tokens or len(tokens) >= max_positions:
            return drawn
