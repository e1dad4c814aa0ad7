"""Packs from a clone of the authors' repository, with adapters of their form: rank 512, bfloat16, q_proj and v_proj."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from authors_clone import BASES, write_clone
from fakes import VOCAB, byte_tokenizer
from lorid_engine.engine import Engine, Request, SamplingParams
from lorid_engine.errors import PackError
from lorid_engine.solver import authors_pack, load_pack
from lorid_engine.solver.answers import extract
from lorid_engine.solver.authors_pack import import_authors_pack
from lorid_engine.solver.authors_repository import answer_pattern, find_example, read_role_texts
from lorid_engine.solver.base_source import FolderSource, HubSource
from lorid_engine.solver.pack_check import check_pack
from lorid_engine.solver.role_requests import RoleJob
from tiny_models import reference_model, save_adapter, save_llama

ROLES = ("ir", "kg", "dr")
AROUND = {  # what stands around the user's text, for each template
    "llama2": ("<s>[INST] ", " [/INST]", None),
    "mistral": ("<s>[INST] ", "[/INST]", None),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|eot_id|>", "<|eom_id|>"),
    ),
    "qwen": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        ("<|im_end|>",),
    ),
    "deepseek": ("<｜begin▁of▁sentence｜>User: ", "\n\nAssistant:", None),  # noqa: RUF001
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clone(tmp_path_factory.mktemp("clone") / "LoRID")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer has <s> and </s>, as Llama 2's does."""
    folder = save_llama(tmp_path_factory.mktemp("models") / "Llama-2-7b-hf", vocab=VOCAB + 2)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer()._rust)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.save_pretrained(folder)
    return folder


def save_released(base: Path, folder: Path) -> Path:
    """Three adapters named as the released ones."""
    for seed, role in enumerate(ROLES):
        path = folder / f"GSM8K-LLaMA-2-7B-{role.upper()}"
        save_adapter(base, path, seed=seed, r=512, lora_alpha=1024, lora_dropout=0.1)
        weights = path / "adapter_model.safetensors"
        tensors = {name: (tensor * 0.05).to(torch.bfloat16) for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def pack_folder(clone: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("pack")
    adapters = save_released(base, scratch / "adapters")
    folder = scratch / "made"
    import_authors_pack(clone, folder, base=str(base), dataset="gsm8k", adapters=adapters)
    return folder


def test_the_pack_says_what_the_repository_says(pack_folder: Path, base: Path) -> None:
    pack = load_pack(pack_folder)
    assert pack.name == "lorid-llama2-gsm8k" and pack.base == FolderSource(base)
    assert "72.6 % of GSM8K" in (pack.accuracy or "")
    assert pack.roles["ir"].template.text == "<s>[INST] Answer step by step.\n{question} [/INST]"
    assert pack.roles["kg"].template.text == "<s>[INST] Write the rules.\nQuestion: {question}\n\nKnowledge:  [/INST]"
    assert pack.roles["dr"].template.text == (
        "<s>[INST] Reason by the rules.\nQuestion: {question}\n\nKnowledge: {knowledge}\n\nRationale:  [/INST]"
    )
    for role in ROLES:
        assert pack.sampling_for(role) == {"temperature": 1.5, "top_p": 0.9, "top_k": 50, "max_tokens": 1024}
    assert extract("So 3+4=7\nand 5 more.\n--> 1,200 END", pack.answer_pattern) == "1,200"


def test_the_prompt_begins_with_one_begin_of_text(pack_folder: Path, base: Path) -> None:
    pack = load_pack(pack_folder)
    engine = Engine(base, {role: pack.roles[role].adapter for role in ROLES}, dtype="float32", kv_memory=2**24)
    request = RoleJob("2+2?</s>", "ir", 1).request(engine, pack, 0, {})
    bos, eos = VOCAB, VOCAB + 1
    assert next(iter(request.prompt)) == bos and list(request.prompt).count(bos) == 1
    assert eos not in request.prompt  # in a question it is characters
    assert engine.tokenizer.decode(request.prompt) == "[INST] Answer step by step.\n2+2?</s> [/INST]"


def test_peft_gives_the_same_outputs(pack_folder: Path, base: Path) -> None:
    """Rank 512 on a narrower base: tokens and their log-probabilities, role by role, in one batch."""
    pack = load_pack(pack_folder)
    engine = Engine(base, {role: pack.roles[role].adapter for role in ROLES}, dtype="float32", kv_memory=2**24)
    jobs = [RoleJob("How many?", role, 1, "Add." if role == "dr" else None) for role in ROLES]
    requests = [job.request(engine, pack, 0, {"temperature": 0.0, "max_tokens": 12}) for job in jobs]
    requests = [
        Request(each.prompt, each.adapter, SamplingParams(temperature=0, max_tokens=12, logprobs=0, ignore_eos=True))
        for each in requests
    ]
    outputs = engine.generate(requests)
    assert len({output.outputs[0].token_ids for output in outputs}) == 3
    model = PeftModel.from_pretrained(reference_model(base), pack.roles["ir"].adapter, adapter_name="ir").eval()
    for role in ("kg", "dr"):
        model.load_adapter(pack.roles[role].adapter, adapter_name=role)
    for role, request, output in zip(ROLES, requests, outputs, strict=True):
        model.set_adapter(role)
        tokens = [*request.prompt, *output.outputs[0].token_ids]
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
        for place, token in enumerate(output.outputs[0].token_ids):
            row = logprobs[len(request.prompt) + place - 1]
            assert int(row.argmax()) == token
            assert output.outputs[0].logprobs is not None
            assert abs(float(row[token]) - output.outputs[0].logprobs[place][token].logprob) < 1e-4


def test_the_pack_is_in_order(pack_folder: Path, tmp_path: Path) -> None:
    findings = check_pack(pack_folder, tmp_path)
    # The tiny base has a context of 512; what the authors' bases have is longer.
    assert [finding.what for finding in findings if finding.problem] == [f"prompt of {role}" for role in ROLES]
    assert all("1024 new tokens" in (finding.problem or "") for finding in findings if finding.problem)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("dataset", ["gsm8k", "math"])
def test_every_template(clone: Path, tmp_path: Path, name: str, dataset: str) -> None:
    adapters = tmp_path / "mine"
    for role in ROLES:
        (adapters / role).mkdir(parents=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (adapters / role / file).write_text("{}")
    import_authors_pack(clone, tmp_path / "pack", base=BASES[name], dataset=dataset, adapters=adapters)
    pack = load_pack(tmp_path / "pack")
    before, after, stop = AROUND[name]
    assert pack.base == HubSource(BASES[name], "main") and pack.accuracy is None
    assert pack.roles["ir"].template.text == f"{before}Answer step by step.\n{{question}}{after}"
    assert pack.stop == (stop or ())
    assert (pack.answer_pattern is None) == (dataset == "math")


def test_adapters_that_the_scripts_trained(clone: Path, base: Path, tmp_path: Path) -> None:
    copy = write_clone(tmp_path / "LoRID")
    for role, module in zip(ROLES, ("intuitive_reasoner", "knowledge_generator", "deep_reasoner"), strict=True):
        path = copy / "save" / "adapter" / "gsm8k" / "qwen" / module
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text("{}")
        (path / "adapter_model.safetensors").write_text(role)
    import_authors_pack(copy, tmp_path / "pack", base=str(base), dataset="gsm8k", example="qwen")
    pack = load_pack(tmp_path / "pack")
    assert (pack.roles["kg"].adapter / "adapter_model.safetensors").read_text() == "kg" and pack.accuracy is None


def test_released_adapters_come_from_the_hub(
    clone: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def hub(name: str) -> Path:
        asked.append(name)
        folder = tmp_path / name.replace("/", "--")
        folder.mkdir()
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / file).write_text("{}")
        return folder

    monkeypatch.setattr(authors_pack, "hub_adapter", hub)
    import_authors_pack(clone, tmp_path / "pack", base="mistralai/Mistral-7B-v0.1", dataset="math")
    assert asked == [f"LoRID-Math/MATH-Mistral-7B-{role}" for role in ("IR", "KG", "DR")]
    assert "31.6 % of MATH" in (load_pack(tmp_path / "pack").accuracy or "")


def test_what_is_missing_is_named(clone: Path, base: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"

    def refused(message: str, **options: object) -> None:
        given = {"base": str(base), "dataset": "gsm8k", "example": "llama2", "adapters": mine, **options}
        source = given.pop("clone", clone)
        with pytest.raises(PackError, match=message):
            import_authors_pack(source, out, **given)  # type: ignore[arg-type]
        assert not out.exists()

    mine.mkdir()
    refused("has no adapter of ir: none of its folders ir, IR, intuitive_reasoner, GSM8K-LLaMA-2-7B-IR")
    refused("has no examples/gsm8k", clone=tmp_path)
    refused("there is no example 'llama9'.*deepseek, llama2", example="llama9")
    refused("is no folder, no .gguf file and no hub's model", base="nowhere")
    refused("a revision is for models of a hub", revision="v1")
    refused(r"name the one it is like with --example.*llama2 \(meta-llama", example=None, base=str(tmp_path))
    refused("released no adapters for qwen", example="qwen", adapters=None)
    (out / "x").mkdir(parents=True)
    with pytest.raises(PackError, match="exists already"):
        import_authors_pack(clone, out, base=str(base), dataset="gsm8k", adapters=mine)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ('input_str = item["question"]', "does not set input_str"),
        ("def preprocess_deep_reasoner", "has no function preprocess_deep_reasoner"),
        ("\nimport yaml", "is not Python that can be parsed"),
    ],
)
def test_a_repository_of_another_form(clone: Path, tmp_path: Path, changed: str, message: str) -> None:
    copy = write_clone(tmp_path / "LoRID")
    path = copy / "src" / "train.py"
    path.write_text(
        path.read_text().replace(changed, "pass" if "input" in changed else "def (" if "yaml" in changed else "def f")
    )
    with pytest.raises(PackError, match=message):
        read_role_texts(copy, "gsm8k")


@pytest.mark.parametrize(
    "expression",
    ['open("/etc/passwd").read()', 'item["other"]', '"%s" % item["question"]', "f\"{item['question']!r}\"", "1"],
)
def test_prompts_are_read_and_never_evaluated(tmp_path: Path, expression: str) -> None:
    copy = write_clone(tmp_path / "LoRID")
    path = copy / "src" / "train.py"
    path.write_text(path.read_text().replace('input_str = item["question"]', f"input_str = {expression}"))
    with pytest.raises(PackError, match=r"line 9: a prompt is put together in a way that is not understood"):
        read_role_texts(copy, "gsm8k")


@pytest.mark.parametrize(
    "statement",
    [
        'input_str += "more"',
        'input_str: str = "other"',
        'instruction = input_str = "other"',
        "if tqdm:\n            instruction = 'x'",
    ],
)
def test_texts_that_are_set_in_other_ways_are_refused(tmp_path: Path, statement: str) -> None:
    copy = write_clone(tmp_path / "LoRID")
    path = copy / "src" / "train.py"
    known = 'input_str = item["question"]'
    path.write_text(path.read_text().replace(known, f"{known}\n        {statement}"))
    with pytest.raises(PackError, match="is set in a way that is not understood"):
        read_role_texts(copy, "gsm8k")


def test_an_incomplete_example_is_in_nobody_s_way(tmp_path: Path, base: Path) -> None:
    copy = write_clone(tmp_path / "LoRID")
    (copy / "examples" / "gsm8k" / "deepseek" / "train_IR.sh").unlink()
    assert find_example(copy, "gsm8k", "meta-llama/Llama-2-7b-hf", None).name == "llama2"
    with pytest.raises(PackError, match=r"train_IR\.sh is no file"):
        find_example(copy, "gsm8k", str(base), "deepseek")


def test_a_clone_cannot_reach_out_of_itself(tmp_path: Path) -> None:
    copy = write_clone(tmp_path / "LoRID")
    script = copy / "examples" / "gsm8k" / "llama2" / "train_IR.sh"
    script.write_text(script.read_text().replace("save/adapter", "../../save"))
    with pytest.raises(PackError, match=r"is not in the clone"):
        find_example(copy, "gsm8k", "x", "llama2")
    (copy / "src" / "train.py").unlink()
    (copy / "src" / "train.py").symlink_to("/dev/zero")
    with pytest.raises(PackError, match="is no file"):
        read_role_texts(copy, "gsm8k")
    (copy / "src" / "train.py").unlink()
    (copy / "src" / "train.py").write_text("#" * (2 << 20))
    with pytest.raises(PackError, match="is larger than any script"):
        read_role_texts(copy, "gsm8k")


def test_patterns_of_targets() -> None:
    assert answer_pattern("{rationale}") is None
    assert extract("a\nAnswer: 5 or so", answer_pattern("{rationale}\nAnswer: {answer}")) == "5 or so"
    with pytest.raises(PackError, match="no answer in its last line"):
        answer_pattern("{answer}\n{rationale}")
