"""The vLLM plugin in vLLM's CPU build, on a tiny model: against transformers, and what it does to rows of the base. `make test-vllm`
builds an environment that has vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None or torch.cuda.is_available(),
    reason="vLLM's CPU build is not installed (make test-vllm does it)",
)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {"all": (8, ALL), "few": (4, ["q_proj", "v_proj"]), "third": (16, ["v_proj", "down_proj"])}
PROMPTS = [[3, 14, 15, 9, 2, 6], [5, 35, 8, 9], [79, 32, 38, 46, 26, 43, 38], [32, 7, 9, 50, 28, 8]]


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, vocab_size=96)
    config = LlamaConfig(**shape, num_key_value_heads=1, head_dim=32, max_position_embeddings=64)
    model = LlamaForCausalLM(config).float().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.15 if weight.dim() == 2 else 1.0)
    return model


def matrices(model: LlamaForCausalLM, name: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of each module that an adapter has."""
    rank, targets = ADAPTERS[name]
    random = torch.Generator().manual_seed(len(name))
    found = {}
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in targets:
            a = torch.randn(rank, module.in_features, generator=random) / 8
            found[path] = a, torch.randn(module.out_features, rank, generator=random) / 8
    return found


def write(folder: Path) -> None:
    """The model, and adapters in PEFT's format with alpha = 2 r."""
    model = make_model()
    model.save_pretrained(folder / "model")
    for name, (rank, targets) in ADAPTERS.items():
        tensors = {
            f"base_model.model.{path}.lora_{half}.weight": matrix.contiguous()
            for path, pair in matrices(model, name).items()
            for half, matrix in zip("AB", pair, strict=True)
        }
        place = folder / "adapters" / name
        place.mkdir(parents=True)
        save_file(tensors, place / "adapter_model.safetensors")
        about = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank}
        (place / "adapter_config.json").write_text(json.dumps({**about, "target_modules": targets}))


def expected_logprobs(tokens: list[int], prompt: list[int], name: str | None) -> list[float]:
    """What transformers gives each of the tokens after the prompt, the adapter added to the weights."""
    model = make_model()
    for path, (a, b) in matrices(model, name).items() if name else ():
        model.get_submodule(path).weight.data += 2.0 * b @ a
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(1).tolist() == tokens
    return logits.log_softmax(1).gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


BATCHES = [
    [None, None, None, None],
    ["all", None, "few", None],
    ["few", "few", None, "all"],
    ["third", None, "few", "third"],  # takes the slot of "all"
    ["third", None, "all", None],  # which comes back
]


def generate(folder: Path, plugin: bool) -> list[list[list]]:
    """[tokens, logprobs] of each prompt of each batch."""
    batches = [list(zip(PROMPTS, names, strict=True)) for names in BATCHES]
    (folder / "batches.json").write_text(json.dumps(batches))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LORID_")}
    environment |= {"LORID_VLLM": "1"} if plugin else {}
    command = [sys.executable, str(Path(__file__).with_name("vllm_job.py")), str(folder)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vllm")
    write(path)
    return path


@pytest.fixture(scope="module")
def with_plugin(folder: Path) -> list[list[list]]:
    return generate(folder, plugin=True)


@pytest.mark.parametrize("batch", range(len(BATCHES)))
def test_every_row_has_its_own_adapter(with_plugin: list[list[list]], batch: int) -> None:
    """Through mixed batches and slots that change hands, tokens and probabilities are those of transformers."""
    for prompt, name, (tokens, logprobs) in zip(PROMPTS, BATCHES[batch], with_plugin[batch], strict=True):
        assert logprobs == pytest.approx(expected_logprobs(tokens, prompt, name), abs=2e-4)


def test_rows_of_the_base_are_those_of_the_base_alone(with_plugin: list[list[list]]) -> None:
    """To the bit: nothing is added to them."""
    for names, answers in zip(BATCHES[1:], with_plugin[1:], strict=True):
        for row, name in enumerate(names):
            if name is None:
                assert answers[row] == with_plugin[0][row]


def test_without_the_plugin_they_are_not(folder: Path) -> None:
    """vLLM 0.32 adds the last slot's adapter to rows of the base; without LORID_VLLM=1 nothing is changed."""
    alone, mixed, *_ = generate(folder, plugin=False)
    assert mixed[1] != alone[1] and mixed[3] != alone[3]
