"""What `lorid bench decode` measures is what it says: rows, adapters, steps. Never how fast."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lorid_engine.benchmark.decode import SPREADS, DecodePlan, adapters_of_rows, measure_decode, rank_name, step_tokens
from lorid_engine.cli import arguments, main
from lorid_engine.cli.bench import panels
from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.engine.options import EngineOptions
from lorid_engine.engine.runner import page_bytes
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import AdapterError, CapacityError, ConfigError
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import SHAPES, RandomTensors, number_tokenizer, random_adapter, shape_config
from lorid_engine.plots import Panel, write_plot
from tiny_models import TINY
from tiny_pack import make_engine, make_pack, make_pack_folder


def random_engine(rows: int = 8) -> Engine:
    config = ModelConfig.from_raw(TINY)
    options = EngineOptions(
        "float32", max_batch_rows=rows, kv_memory=2**25, max_batch_tokens=max(512, step_tokens(rows))
    )
    return Engine.from_tensors(RandomTensors(), config, Tokenizer(number_tokenizer(300), {}), options)


class Counting:
    """An engine that notes what its steps consist of."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.steps = engine, []
        run = engine._runner.run

        def noting(batch: Any) -> Any:
            rows = batch.seg_offset[1:] - batch.seg_offset[:-1]
            slots = [int(slot) for slot, count in zip(batch.seg_slot, rows, strict=True) for _ in range(count)]
            self.steps.append((len(batch.token_ids), len(batch.sample_rows), slots))
            return run(batch)

        engine._runner.run = noting  # type: ignore[method-assign]


def test_every_cell_is_measured_with_its_rows_and_adapters() -> None:
    counting = Counting(random_engine())
    plan = DecodePlan(
        ranks=((0,), (3,), (1, 17)), batches=(1, 5), adapters=(4, 2), spread="uniform", prompt=20, new=6, runs=5
    )
    told: list[dict[str, Any]] = []
    rows = measure_decode(counting.engine, plan, told.append)
    assert rows == told and len(rows) == plan.cells == 2 + 4 + 4
    cells = [(row["rank"], row["adapters"], row["batch"]) for row in rows]
    assert cells[:4] == [(0, 0, 1), (0, 0, 5), (3, 2, 1), (3, 2, 5)] and cells[-1] == ("1+17", 4, 5)
    for row in rows:
        low, high = row["ms_per_step_range"]
        assert 0 < low <= row["ms_per_step"] <= high and row["tok_s"] == pytest.approx(
            1e3 * row["batch"] / row["ms_per_step"]
        )
    decodes = Counter((tokens, samples) for tokens, samples, _ in counting.steps if tokens == samples == 5)
    assert decodes[5, 5] == 5 * (5 + 1) * 6  # cells of 5 rows, runs and a first one, steps
    used = {frozenset(slots) for tokens, samples, slots in counting.steps if tokens == samples == 5}
    assert used == {frozenset({-1}), frozenset({0, 1}), frozenset({0, 1, 2, 3})}
    assert counting.engine.stats().adapters == () and not counting.engine.has_unfinished_requests()


def test_prompts_are_fresh_for_prefill_and_shared_for_decode() -> None:
    engine = random_engine()
    plan = DecodePlan(ranks=((0,),), batches=(4,), adapters=(1,), prompt=40, new=3, runs=5)
    measure_decode(engine, plan)
    stats = engine.stats()
    fresh, begun = 4 * 39, 4 * 7  # of 40 tokens the last draws; 32 of them fill pages that the decode run finds
    assert stats.prompt_tokens == 6 * (fresh + begun) and stats.generated_tokens == 6 * 4 * (1 + 1 + 3)


@pytest.mark.parametrize("batch", [128, 300])
def test_all_rows_of_a_large_batch_begin_together(batch: int) -> None:
    """Each with the whole last page of its prompt."""
    counting = Counting(random_engine(rows=batch))
    plan = DecodePlan(ranks=((0,),), batches=(batch,), adapters=(1,), prompt=32, new=2, runs=1)
    measure_decode(counting.engine, plan)
    assert sum(tokens == samples == batch for tokens, samples, _ in counting.steps) == 2 * 2
    assert sum(samples == batch for _, samples, _ in counting.steps) == 2 * (2 + 1)


def test_too_few_pages_are_told() -> None:
    config = ModelConfig.from_raw(TINY)
    few = EngineOptions(dtype="float32", max_batch_rows=8, kv_memory=16 * page_bytes(config, torch.float32))
    engine = Engine.from_tensors(RandomTensors(), config, Tokenizer(number_tokenizer(300), {}), few)
    with pytest.raises(CapacityError, match="needs more KV pages"):
        measure_decode(engine, DecodePlan(ranks=((0,),), batches=(8,), adapters=(1,), prompt=30, new=8, runs=1))
    assert not engine.has_unfinished_requests()


@pytest.mark.parametrize("spread", ["uniform", "zipf", "ir-dr"])
def test_spreads(spread: str) -> None:
    used = adapters_of_rows(spread, 4096, 16, seed=1)
    counts = Counter(used)
    assert len(used) == 4096 and used == adapters_of_rows(spread, 4096, 16, seed=1)
    if spread == "uniform":
        assert set(counts.values()) == {256}
    elif spread == "ir-dr":
        assert counts == {0: 2048, 1: 2048} and set(adapters_of_rows(spread, 8, 1, 0)) == {0}
    else:
        assert len(counts) == 16 and counts[0] / counts[1] == pytest.approx(2, rel=0.2)
        assert counts[0] / counts[15] == pytest.approx(16, rel=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"spread": "all"},
        {"batches": (0,)},
        {"batches": ()},
        {"adapters": (129,)},
        {"ranks": ((0, 16),)},
        {"ranks": ((),)},
        {"ranks": ((5000,),)},
        {"ranks": ((8, 16),), "adapters": (1, 2)},
        {"prompt": 0},
        {"runs": 0},
    ],
)
def test_plans_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DecodePlan(**options)


def test_64_adapters_of_mixed_rank_load_run_and_unload(tmp_path: Path) -> None:
    """Each row's text with all of them loaded is its text with its adapter alone."""
    config = ModelConfig.from_raw(TINY)
    ranks = [1, 8, 16, 3, 64, 31, 512, 96]
    adapters = [
        random_adapter(f"a{k}", config, ranks[k % 8], ("q_proj", "v_proj", "down_proj"), seed=k) for k in range(64)
    ]
    engine = random_engine(rows=64)
    for adapter in adapters:
        engine.load_adapter(adapter.name, adapter)
    prompt, params = [5, 6, 7], SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=0)
    together = engine.generate([Request(prompt, adapter=adapter.name, sampling=params) for adapter in adapters])
    logprobs = {output.outputs[0].cumulative_logprob for output in together}
    assert len(logprobs) == 64
    for adapter in adapters:
        engine.delete_adapter(adapter.name)
    assert engine.stats().adapters == ()
    for number in (0, 6, 33, 63):
        engine.load_adapter("alone", adapters[number])
        alone = engine.generate(Request(prompt, adapter="alone", sampling=params))[0].outputs[0]
        assert alone == together[number].outputs[0]
        engine.delete_adapter("alone")


def test_adapters_in_memory_are_checked(tmp_path: Path) -> None:
    engine = make_engine(make_pack(tmp_path))
    other = random_adapter("x", ModelConfig.from_raw(TINY), 4, ("q_proj",), seed=0)
    with pytest.raises(AdapterError, match="made for another base"):
        engine.load_adapter("x", other)
    with pytest.raises(ConfigError, match="there is no projection 'qkv' to adapt; there are q_proj"):
        random_adapter("x", engine.config, 4, ("qkv",), seed=0)


def test_the_command_knows_all_shapes_and_spreads() -> None:
    assert (arguments.SHAPES, arguments.SPREADS) == (SHAPES, SPREADS)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    config = shape_config(name)
    assert config.hidden_size == config.num_heads * config.head_dim
    assert set(config.windows) == ({4096} if name == "mistral-7b" else {0})


def test_random_tensors_differ_and_repeat() -> None:
    first, again = RandomTensors(1), RandomTensors(1)
    a, b = first.tensor("a.weight", (40, 30)), first.tensor("b.weight", (40, 30))
    assert not torch.equal(a, b) and torch.equal(a, again.tensor("a.weight", (40, 30)))
    assert a.dtype == torch.bfloat16 and 0.01 < float(a.float().std()) < 0.03
    assert torch.equal(first.tensor("model.norm.weight", (7,)), torch.ones(7, dtype=torch.bfloat16))


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_pack_folder(tmp_path_factory.mktemp("pack")) / "base")


def test_the_command(tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["bench", "decode", "--base", tiny_base, "--dtype", "float32", "--batch", "1,3", "--adapters", "2,3"]
    command += ["--rank", "0,2+9", "--prompt", "20", "--new", "3", "--threads", "1", "--spread", "ir-dr"]
    plot = tmp_path / "plot.svg"
    assert main([*command, "--json", "--plot", str(plot)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 6 and {"rank", "batch", "adapters", "spread", "ms_per_step", "tok_s", "prefill_tok_s"} <= set(
        rows[0]
    )
    assert {row["rank"] for row in rows} == {0, "2+9"} and rows[0]["dtype"] == "float32" and rows[0]["threads"] == 1
    assert "<svg" in plot.read_text()
    assert main(command) == 0
    assert "Medians of 5 runs" in capsys.readouterr().out


def test_the_plot_has_a_line_a_rank_and_a_panel_a_batch() -> None:
    rows = [
        {"rank": rank, "batch": batch, "adapters": adapters, "tok_s": 10.0 * batch}
        for batch in (1, 8)
        for rank, adapters in ((0, 0), (16, 1), (16, 4), ("16+64", 4))
    ]
    one, eight = panels(rows)
    assert (one.title, eight.title) == ("1 rows", "8 rows")
    assert one.lines == {"no adapters": ([1, 4], [10, 10]), "rank 16": ([1, 4], [10, 10]), "rank 16+64": ([4], [10])}
    assert rank_name((16,)) == 16 and rank_name((16, 64)) == "16+64"


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_plots_are_written(tmp_path: Path, suffix: str) -> None:
    write_plot(tmp_path / f"p.{suffix}", [Panel("a", {"b": ([1, 2], [3, 4])})] * 2, "x", "y")
    assert (tmp_path / f"p.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "p.txt"], "must end in .svg, .png or .pdf"),
        (["--plot", "none/p.svg"], "cannot be written"),
        (["--rank", "0+16"], "rank must be 0"),
        (["--prompt", "600", "--base", "BASE"], "pass the base's context of 512 tokens"),
        (["--targets", "lm_head", "--rank", "4", "--base", "BASE"], "there is no projection 'lm_head'"),
        (["--revision", "v1"], "which --base names"),
        (["--base", "nowhere"], "nowhere has no config.json"),
    ],
)
def test_mistakes_are_one_line(
    tiny_base: str, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    given = [tiny_base if argument == "BASE" else argument for argument in arguments]
    assert main(["bench", "decode", *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_options_that_argparse_refuses(capsys: pytest.CaptureFixture) -> None:
    for given in (
        ["--rank", "x"],
        ["--batch", "1,0"],
        ["--runs", "4"],
        ["--spread", "all"],
        ["--random-shape", "gpt"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["bench", "decode", *given])
        assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1
