"""Adapters that come and go under one name, on a real runner."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fakes import InterruptAt
from lorid_engine.engine import Engine, Request, SamplingParams
from tiny_models import save_adapter
from tiny_pack import make_engine, make_pack

PROMPT = list(range(60, 100))


def draw(engine: Engine, adapter: str = "ir") -> tuple[int, ...]:
    sampling = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    return engine.generate(Request(PROMPT, adapter=adapter, sampling=sampling))[0].outputs[0].token_ids


def test_a_name_loaded_again_does_not_find_the_pages_of_its_predecessor(tmp_path: Path) -> None:
    pack = make_pack(tmp_path / "pack")
    other = save_adapter(tmp_path / "pack" / "base", tmp_path / "other", seed=99, target_modules="all-linear")
    engine = make_engine(pack)
    first = draw(engine)
    engine.delete_adapter("ir")
    engine.load_adapter("ir", other)
    again, fresh = draw(engine), make_engine(pack)
    fresh.delete_adapter("ir")
    fresh.load_adapter("ir", other)
    assert again == draw(fresh) != first


def test_samples_of_one_prompt_part_in_its_last_page(tmp_path: Path) -> None:
    """Copies of the half-filled page on a real runner: each sample is as when it is drawn with another number of them."""
    engine = make_engine(make_pack(tmp_path / "pack"))
    sampling = [SamplingParams(n=n, seed=3, max_tokens=20, ignore_eos=True) for n in (1, 5)]
    one, five = (engine.generate(Request(PROMPT[:21], adapter="dr", sampling=each))[0].outputs for each in sampling)
    assert one[0].token_ids == five[0].token_ids and len({sample.token_ids for sample in five}) == 5
    alone = make_engine(make_pack(tmp_path / "pack2"), max_batch_rows=1)
    again = alone.generate(Request(PROMPT[:21], adapter="dr", sampling=sampling[1]))[0].outputs
    assert [sample.token_ids for sample in again] == [sample.token_ids for sample in five]


def test_ctrl_c_while_adapters_come_and_go(tmp_path: Path) -> None:
    """Wherever it falls, the other adapters stay as they are, and the name can be loaded again and is what it should be."""
    pack = make_pack(tmp_path / "pack")
    wide = save_adapter(tmp_path / "pack" / "base", tmp_path / "wide", seed=98, target_modules="all-linear")
    narrow = save_adapter(tmp_path / "pack" / "base", tmp_path / "narrow", seed=99, target_modules=["k_proj"])
    engine = make_engine(pack)
    before = draw(engine)
    engine.load_adapter("x", narrow)
    expected = draw(engine, "x")
    engine.delete_adapter("x")

    def interrupted(line: int, change: Callable[[], None]) -> bool:
        trace = sys.gettrace()
        sys.settrace(InterruptAt(line))
        try:
            change()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(trace)
        return False

    for change in ("load", "delete"):
        cuts, line = 0, 1
        while True:
            if change == "load":
                cut = interrupted(line, lambda: engine.load_adapter("x", wide))
            else:
                engine.load_adapter("x", wide)
                cut = interrupted(line, lambda: engine.delete_adapter("x"))
            assert draw(engine) == before
            if "x" in engine.stats().adapters:
                engine.delete_adapter("x")
            engine.load_adapter("x", narrow)
            assert draw(engine, "x") == expected
            engine.delete_adapter("x")
            if not cut:
                break
            cuts, line = cuts + 1, line + 1 + line // 8
        assert cuts > 20
