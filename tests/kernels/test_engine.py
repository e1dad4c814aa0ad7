"""The engine on the Triton backend, interpreted: the same tokens as on the C++ backend, and slots that come and go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fakes import byte_tokenizer
from helpers import assert_same_bits
from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.engine.batch import StepBatch
from lorid_engine.engine.options import EngineOptions
from lorid_engine.errors import CapacityError, ConfigError
from lorid_engine.model.adapters import load_adapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.device_adapters import DeviceAdapters, Kind
from lorid_engine.model.device_forward import plain
from lorid_engine.model.llama import load_llama
from lorid_engine.model.weights import Checkpoint
from lorid_engine.ops import gpu, use_backend
from tiny_models import save_adapter, save_llama

pytestmark = pytest.mark.skipif(not gpu.interprets(), reason="needs TRITON_INTERPRET=1")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("base"), "grouped", vocab=258)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "narrow": save_adapter(base, folder / "narrow", seed=1),
        "all": save_adapter(base, folder / "all", seed=2, r=5, target_modules=ALL),
        "wide": save_adapter(base, folder / "wide", seed=3, r=70, target_modules=["q_proj", "o_proj"]),
    }


def engine(base: Path, adapters: dict[str, Path], **changes: object) -> Engine:
    options = {"dtype": "float32", "max_batch_rows": 8, "max_batch_tokens": 32, "kv_memory": 2**20, **changes}
    config = ModelConfig.from_folder(base)
    made = Engine.from_tensors(Checkpoint(base), config, byte_tokenizer(), EngineOptions(**options))
    for name, folder in adapters.items():
        made.load_adapter(name, folder)
    return made


def request(adapter: str | None, length: int, **sampling: object) -> Request:
    prompt = [(7 * place + length) % 256 for place in range(length)]
    params = {"max_tokens": 2, "temperature": 0, "ignore_eos": True, **sampling}
    return Request(prompt, adapter=adapter, sampling=SamplingParams(**params))


def tokens(made: Engine, requests: list[Request]) -> list[list[tuple[int, ...]]]:
    return [[sample.token_ids for sample in output.outputs] for output in made.generate(requests)]


@pytest.mark.parametrize("active_adapters", [1, 2])
def test_tokens_are_the_cpp_backends(base: Path, adapters: dict[str, Path], active_adapters: int) -> None:
    """Prompts in chunks, all adapters and none in a step; with one active adapter all are merged."""
    requests = [
        request(None, 4),
        request("narrow", 12),
        request("all", 36, max_tokens=2),
        request("wide", 3, max_tokens=2, temperature=1.0, top_k=50, top_p=0.9, seed=3, n=2),
    ]
    results = {}
    for backend in ("cpu", "triton"):
        with use_backend(backend):
            results[backend] = tokens(engine(base, adapters, active_adapters=active_adapters), requests)
    assert results["cpu"] == results["triton"]


def test_log_probabilities_are_the_cpp_backends(base: Path) -> None:
    results = {}
    for backend in ("cpu", "triton"):
        with use_backend(backend):
            output = engine(base, {}).generate(request(None, 3, logprobs=3, max_tokens=2))[0]
            results[backend] = output.outputs[0].logprobs
    for mine, theirs in zip(results["triton"], results["cpu"], strict=True):
        assert list(mine) == list(theirs)
        for token in mine:
            assert mine[token].logprob == pytest.approx(theirs[token].logprob, abs=1e-4)
            assert mine[token].rank == theirs[token].rank


@pytest.mark.usefixtures("ordered_dot")
def test_slots_come_and_go(base: Path, adapters: dict[str, Path]) -> None:
    with use_backend("triton"):
        made = engine(base, {"narrow": adapters["narrow"]})
        alone = logits_of(made, [0])
        made.load_adapter("wide", adapters["wide"])  # room for more ranks from now on
        assert_same_bits(logits_of(made, [0, 1])[0], alone[0])
        made.delete_adapter("narrow")
        made.load_adapter("again", adapters["narrow"])
        assert_same_bits(logits_of(made, [0])[0], alone[0])


def logits_of(made: Engine, adapter_slots: list[int]) -> torch.Tensor:
    """One step of a token for each slot, every one in a page of its own."""
    import numpy as np

    rows = len(adapter_slots)
    count = np.arange(rows, dtype=np.int32)
    batch = StepBatch(
        token_ids=count + 40,
        positions=np.zeros(rows, np.int32),
        query_offset=np.arange(rows + 1, dtype=np.int32),
        block_table=count.reshape(-1, 1),
        seg_offset=np.arange(rows + 1, dtype=np.int32),
        seg_slot=np.array(adapter_slots, np.int32),
        sample_rows=count,
        philox_key=np.zeros(rows, np.uint64),
        philox_counter=np.zeros((rows, 2), np.uint32),
        temperature=np.zeros(rows, np.float32),
        top_k=np.zeros(rows, np.int32),
        top_p=np.ones(rows, np.float32),
        num_logprobs=-1,
        page_copies=np.zeros((0, 2), np.int32),
    )
    made._runner.run(batch)
    return torch.from_numpy(made._runner.logits(rows).copy())


@pytest.mark.usefixtures("ordered_dot")
def test_a_rows_logits_depend_on_itself_alone(base: Path, adapters: dict[str, Path]) -> None:
    with use_backend("triton"):
        made = engine(base, adapters)
        together = logits_of(made, [-1, 0, 1, 2])
        other = logits_of(made, [-1, 2, 1, 0])
        assert_same_bits(together[0], other[0])
        assert_same_bits(together[2], other[2])
        assert (together[1] != other[1]).any()
        without = logits_of(engine(base, {}), [-1])
        assert_same_bits(without[0], together[0])


def test_tables_hold_what_was_loaded(base: Path, adapters: dict[str, Path]) -> None:
    config = ModelConfig.from_folder(base)
    weights = load_llama(Checkpoint(base), config, torch.float32, plain)
    slots = DeviceAdapters(weights, torch.float32, torch.device("cpu"), 4, 2)
    assert slots.kind == Kind(64, False, frozenset())
    assert slots.of(weights.layers[0].qkv) is None
    slots.load(2, load_adapter("wide", adapters["wide"], config).modules)
    slots.load(1, load_adapter("narrow", adapters["narrow"], config).modules)
    tables = slots.of(weights.layers[0].qkv)
    assert tables.rank.tolist()[0][1] == 8 and tables.rank.tolist()[1] == [0, 0, 0, 0]
    assert slots.of(weights.head) is None
    assert slots.kind == Kind(64, True, frozenset({"self_attn.q_proj", "self_attn.o_proj"}))  # rank 70 is merged
    assert slots.of(weights.layers[0].down) is None
    slots.unload(2)
    assert slots.kind == Kind(64, True, frozenset({"self_attn.q_proj"})) and slots.of(weights.layers[1].output) is None
    slots.load(2, load_adapter("all", adapters["all"], config).modules)
    slots.load(2, load_adapter("narrow", adapters["narrow"], config).modules)  # nothing of "all" stays
    slots.load(3, load_adapter("all", adapters["all"], config).modules)
    assert [row[2] for row in slots.of(weights.layers[1].gate_up).rank.tolist()] == [0, 0]


def test_rotary_tables_of_layers_without_rotation_and_windows(tmp_path: Path) -> None:
    """A family whose heads are normalised: Qwen3, on both backends."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = Qwen3Config(vocab_size=258, num_hidden_layers=2, intermediate_size=48, initializer_range=0.2, **shape)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    results = []
    for backend in ("cpu", "triton"):
        with use_backend(backend):
            results.append(tokens(engine(tmp_path, {}), [request(None, 6)]))
    assert results[0] == results[1]


def test_bfloat16_is_not_interpreted() -> None:
    with use_backend("triton"), pytest.raises(ConfigError, match="on the CPU take float16 or float32"):
        EngineOptions()


def test_out_of_memory_says_what_did_not_fit(
    base: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**30, 2**33))
    with use_backend("triton"):
        made = engine(base, {})
        with monkeypatch.context() as patched, pytest.raises(CapacityError) as caught:
            patched.setattr(DeviceAdapters, "load", full)
            made.load_adapter("narrow", adapters["narrow"])
        assert "no memory on cpu for the adapter 'narrow': 1.0 of 8.0 GiB are free" in str(caught.value)
        made.load_adapter("narrow", adapters["narrow"])  # the name is free still
        with monkeypatch.context() as patched, pytest.raises(CapacityError, match="for a step"):
            patched.setattr(type(made._runner), "_launch", full)
            made.generate(request("narrow", 4))
        with pytest.raises(CapacityError, match="holds no page"):
            engine(base, {}, kv_memory=10)
