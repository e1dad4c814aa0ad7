"""The recorded forward against transformers and PEFT, and against itself in other batches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from lorid_engine.engine.batch import StepBatch
from lorid_engine.engine.runner import Runner
from lorid_engine.model.adapters import load_adapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.weights import Checkpoint
from tiny_models import SHAPES, adapted_model, reference_model, save_adapter, save_llama

PAGES_EACH = 20


def make_runner(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    threads: int = 2,
    num_pages: int = 8 * PAGES_EACH,
    active_adapters: int = 1000,
) -> Runner:
    return Runner(
        Checkpoint(folder),
        ModelConfig.from_folder(folder),
        dtype=dtype,
        threads=threads,
        num_pages=num_pages,
        max_batch_tokens=400,
        max_samples=400,
        num_slots=8,
        active_adapters=active_adapters,
    )


@dataclass
class Feeder:
    """Feeds sequences by hand: each owns scattered pages, and every row's logits come back."""

    runner: Runner
    slots: list[int]
    fed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fed = [0] * len(self.slots)
        order = np.random.default_rng(0).permutation(8 * PAGES_EACH).astype(np.int32)
        self.tables = order[: len(self.slots) * PAGES_EACH].reshape(len(self.slots), PAGES_EACH)

    def step(self, tokens: dict[int, list[int]], copies: Sequence[tuple[int, int]] = ()) -> dict[int, np.ndarray]:
        """One step with these tokens of these sequences; the logits [tokens, V] of each."""
        lengths = [len(part) for part in tokens.values()]
        offset = np.cumsum([0, *lengths]).astype(np.int32)
        rows = int(offset[-1])
        positions = [np.arange(self.fed[b], self.fed[b] + len(part)) for b, part in tokens.items()]
        self.runner.run(
            StepBatch(
                token_ids=np.concatenate(list(tokens.values())).astype(np.int32),
                positions=np.concatenate(positions).astype(np.int32),
                query_offset=offset,
                block_table=self.tables[list(tokens)],
                seg_offset=offset,
                seg_slot=np.array([self.slots[b] for b in tokens], np.int32),
                sample_rows=np.arange(rows, dtype=np.int32),
                philox_key=np.zeros(rows, np.uint64),
                philox_counter=np.zeros((rows, 2), np.uint32),
                temperature=np.zeros(rows, np.float32),
                top_k=np.zeros(rows, np.int32),
                top_p=np.ones(rows, np.float32),
                num_logprobs=-1,
                page_copies=np.array(copies, np.int32).reshape(-1, 2),
            )
        )
        for b, part in tokens.items():
            self.fed[b] += len(part)
        logits = self.runner.logits(rows)
        return {b: logits[offset[i] : offset[i + 1]] for i, b in enumerate(tokens)}


def token_list(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 131, count).tolist()


def expect_logits(actual: np.ndarray, model: torch.nn.Module, tokens: list[int]) -> None:
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].double().numpy()
    bound = 1e-4 * np.abs(expected).max()
    assert actual.shape == expected.shape and np.abs(actual - expected).max() <= bound


def feed_all(feeder: Feeder, b: int, tokens: list[int], cuts: list[int]) -> np.ndarray:
    """A sequence's logits, fed in pieces that end at the cuts."""
    pieces = [tokens[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]
    return np.concatenate([feeder.step({b: piece})[b] for piece in pieces if piece])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_and_64_decode_steps_match_transformers(tmp_path: Path, isa: str, shape: str, tied: bool) -> None:
    folder = save_llama(tmp_path / "base", shape, tied=tied)
    tokens = token_list(100)
    feeder = Feeder(make_runner(folder), [-1])
    logits = feed_all(feeder, 0, tokens, list(range(36, 100)))
    expect_logits(logits, reference_model(folder), tokens)


def test_long_context_crosses_chunks(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "base")
    tokens = token_list(300)
    expect_logits(feed_all(Feeder(make_runner(folder), [-1]), 0, tokens, [290]), reference_model(folder), tokens)


ADAPTERS: dict[str, dict] = {
    "rank3": dict(r=3, lora_alpha=5),
    "rank8": dict(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
    "rank64": dict(r=64, lora_alpha=8, target_modules="all-linear"),
    "rslora": dict(r=16, use_rslora=True),
    "patterns": dict(
        r=4,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 9, "down_proj": 2},
        alpha_pattern={"v_proj": 40},
    ),
}


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    base = save_llama(tmp_path / "base")
    return base, {
        name: save_adapter(base, tmp_path / name, seed=i, **ADAPTERS[name]) for i, name in enumerate(ADAPTERS)
    }


def test_mixed_adapters_in_one_batch_match_peft_one_at_a_time(adapted: tuple[Path, dict[str, Path]], isa: str) -> None:
    base, folders = adapted
    runner, config = make_runner(base), ModelConfig.from_folder(base)
    for slot, (name, folder) in enumerate(folders.items()):
        runner.load_adapter(slot, load_adapter(name, folder, config))
    feeder = Feeder(runner, [*range(len(folders)), -1])
    tokens = {b: token_list(20 + 3 * b, seed=b) for b in range(len(folders) + 1)}
    prompt = feeder.step({b: part[:-4] for b, part in tokens.items()})
    decoded = [feeder.step({b: [part[step - 4]] for b, part in tokens.items()}) for step in range(4)]
    models = [*(adapted_model(base, folder) for folder in folders.values()), reference_model(base)]
    for b, model in enumerate(models):
        logits = np.concatenate([prompt[b], *(step[b] for step in decoded)])
        expect_logits(logits, model, tokens[b])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_has_the_same_bits_whatever_shares_its_steps(
    adapted: tuple[Path, dict[str, Path]], isa: str, dtype: torch.dtype
) -> None:
    """Invariants 1 and 2 over the whole forward: company, chunking, page numbers, threads, loaded adapters."""
    base, folders = adapted
    config, tokens = ModelConfig.from_folder(base), token_list(290)
    expected: dict[int, np.ndarray] = {}
    for threads in (1, 2, 5):
        runner = make_runner(base, dtype, threads)
        alone = make_runner(base, dtype, 1)
        for slot, name in enumerate(("rank8", "rank64")):
            runner.load_adapter(slot, load_adapter(name, folders[name], config))
        for slot in (-1, 0, 1):
            if slot >= 0:
                name = ("rank8", "rank64")[slot]
                alone.load_adapter(slot, load_adapter(name, folders[name], config))
            if slot not in expected:
                expected[slot] = feed_all(Feeder(alone, [slot]), 0, tokens, [])
            feeder = Feeder(runner, [1, -1, slot, 0])
            cuts = [1, 2, 17, 100, 101, 256, 257]
            pieces = []
            for begin, end in zip([0, *cuts], [*cuts, 290], strict=True):
                company = {0: token_list(7, seed=begin), 1: [5], 2: tokens[begin:end], 3: token_list(16, seed=end)}
                pieces.append(feeder.step(company)[2])
            assert np.array_equal(np.concatenate(pieces).view(np.int32), expected[slot].view(np.int32))


@pytest.mark.parametrize("active_adapters", [1, 1000])
def test_either_form_of_an_adapter_matches_peft(tmp_path: Path, isa: str, active_adapters: int) -> None:
    """With 1 active adapter every module is merged that can be, with 1000 only those of a rank past their width."""
    base = save_llama(tmp_path / "base", "whole_blocks")
    folders = {
        "low": save_adapter(base, tmp_path / "low", seed=1, r=2, target_modules="all-linear"),
        "wide": save_adapter(base, tmp_path / "wide", seed=2, r=80, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    }
    runner, config = make_runner(base, active_adapters=active_adapters), ModelConfig.from_folder(base)
    for slot, (name, folder) in enumerate(folders.items()):
        runner.load_adapter(slot, load_adapter(name, folder, config))
    tokens = {b: token_list(20 + b, seed=b) for b in range(3)}
    logits = Feeder(runner, [0, 1, -1]).step(tokens)
    for b, model in enumerate([*(adapted_model(base, folder) for folder in folders.values()), reference_model(base)]):
        expect_logits(logits[b], model, tokens[b])
    alone = Feeder(make_runner(base), [-1]).step({0: tokens[2]})[0]
    assert np.array_equal(alone.view(np.int32), logits[2].view(np.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_adapters_keep_bits_apart(tmp_path: Path, isa: str, dtype: torch.dtype) -> None:
    """Invariants 1 and 2 where adapters are merged: company, chunks, threads; and a slot that was emptied is the base again."""
    base = save_llama(tmp_path / "base", "whole_blocks")
    config, tokens = ModelConfig.from_folder(base), token_list(90)
    folders = [
        save_adapter(base, tmp_path / "plain", seed=1, r=70, target_modules="all-linear"),
        save_adapter(base, tmp_path / "scaled", seed=2, r=64, use_rslora=True),
    ]
    expected: dict[int, np.ndarray] = {}
    for threads in (1, 3):
        runner = make_runner(base, dtype, threads, active_adapters=1)
        for slot, folder in enumerate(folders):
            runner.load_adapter(slot, load_adapter("x", folder, config))
        for slot in (-1, 0, 1):
            alone = feed_all(Feeder(runner, [slot]), 0, tokens, [])
            assert np.array_equal(alone, expected.setdefault(slot, alone))
            feeder, pieces = Feeder(runner, [1, -1, slot, 0]), []
            for begin, end in zip([0, 1, 2, 40, 41], [1, 2, 40, 41, 90], strict=True):
                company = {0: token_list(7, seed=begin), 1: [5], 2: tokens[begin:end], 3: token_list(16, seed=end)}
                pieces.append(feeder.step(company)[2])
            assert np.array_equal(np.concatenate(pieces).view(np.int32), alone.view(np.int32))
        runner.unload_adapter(0)
        assert np.array_equal(feed_all(Feeder(runner, [0]), 0, tokens, []), expected[-1])
    assert not np.array_equal(expected[0], expected[-1]) and not np.array_equal(expected[0], expected[1])


def test_unloading_an_adapter_gives_the_base_back(adapted: tuple[Path, dict[str, Path]]) -> None:
    base, folders = adapted
    runner, config = make_runner(base), ModelConfig.from_folder(base)
    tokens = token_list(30)
    before = feed_all(Feeder(runner, [2]), 0, tokens, [])
    runner.load_adapter(2, load_adapter("rank8", folders["rank8"], config))
    during = feed_all(Feeder(runner, [2]), 0, tokens, [])
    runner.unload_adapter(2)
    after = feed_all(Feeder(runner, [2]), 0, tokens, [])
    assert not np.array_equal(before, during) and np.array_equal(before, after)


def test_bf16_is_close_to_fp32(adapted: tuple[Path, dict[str, Path]], isa: str) -> None:
    base, _ = adapted
    tokens = token_list(60)
    wide = feed_all(Feeder(make_runner(base), [-1]), 0, tokens, [])
    half = feed_all(Feeder(make_runner(base, torch.bfloat16), [-1]), 0, tokens, [])
    assert np.abs(wide - half).max() <= 0.05 * np.abs(wide).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copied_page_goes_on_as_the_original(adapted: tuple[Path, dict[str, Path]], dtype: torch.dtype) -> None:
    feeder, tokens = Feeder(make_runner(adapted[0], dtype), [-1, -1]), token_list(20)
    feeder.step({0: tokens})
    full, half = feeder.tables[0, :2].copy()
    feeder.tables[1, 0] = full  # shared; the second page is copied, since both go on in it
    feeder.fed[1] = 20
    pieces = feeder.step({0: [7, 8], 1: [7, 8]}, copies=[(half, feeder.tables[1, 1])])
    assert np.array_equal(pieces[0].view(np.int32), pieces[1].view(np.int32))
    feeder.step({0: [9]})
    parted = [feeder.step({1: [token]})[1] for token in (10, 11)]
    alone = feed_all(Feeder(make_runner(adapted[0], dtype), [-1]), 0, [*tokens, 7, 8, 10, 11], [])
    assert np.array_equal(np.concatenate([pieces[1], *parted]).view(np.int32), alone[20:].view(np.int32))


def test_two_threads_in_one_program_are_refused(adapted: tuple[Path, dict[str, Path]]) -> None:
    runner = make_runner(adapted[0])
    feeders, outcomes = [Feeder(runner, [-1]), Feeder(runner, [-1])], []

    def feed(feeder: Feeder) -> None:
        for _ in range(20):
            feeder.fed[0] = 0
            try:
                feeder.step({0: token_list(200)})
                outcomes.append("ran")
            except RuntimeError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=feed, args=(feeder,)) for feeder in feeders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 40 and "ran" in outcomes
    assert all(outcome == "ran" or "one step at a time" in outcome for outcome in outcomes)


def test_a_step_that_points_outside_is_refused(adapted: tuple[Path, dict[str, Path]]) -> None:
    feeder = Feeder(make_runner(adapted[0]), [-1, 8])
    with pytest.raises(ValueError, match="token_ids must be from 0 to 130; got 131"):
        feeder.step({0: [131]})
    with pytest.raises(ValueError, match="seg_slot must be from -1 to 7; got 8"):
        feeder.step({1: [5]})
    with pytest.raises(ValueError, match="a step may have 400 rows; got 401"):
        feeder.step({0: [5] * 401})
    with pytest.raises(ValueError, match="block_table has 20 columns; sequence 0 needs 21"):
        feeder.step({0: [5] * 321})
    feeder.fed[0] = 512
    with pytest.raises(ValueError, match="positions of a sequence must count up within 0 to 511; got 512"):
        feeder.step({0: [5]})
    feeder.fed[0] = 0
    with pytest.raises(ValueError, match="rows must be from 0 to 400; got 401"):
        feeder.runner.logits(401)
    feeder.tables[0, 0] = -1
    with pytest.raises(ValueError, match="block_table must name pages 0 to 159; got -1"):
        feeder.step({0: [5]})
