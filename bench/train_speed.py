"""Training tokens/s of all roles in one run against PEFT and torch, which train the same batches one role after another.

    python bench/train_speed.py [--rank 64] [--batch-size 4] [--steps 5] [--device cuda] [--out bench/results/train-speed]

The default pack's base, or another, in float32 (bfloat16 on a GPU) with random examples of GSM8K's lengths, without dropout. Both read the same batches; PEFT's
are padded to their longest example, which is of much the same length (examples that are packed end to end would need a mask of
all tokens by all tokens there). Both compute logits of target positions alone, and both clip and take AdamW steps. The steps are
interleaved, ours, then theirs, each in a process of its own: `lorid train` sets up its process's memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from common import write_result
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM

from lorid_engine import env
from lorid_engine.model.config import ModelConfig
from lorid_engine.ops import cpu
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import load_pack
from lorid_engine.train.adapters import RoleAdapters
from lorid_engine.train.examples import Example
from lorid_engine.train.forward import load_frozen
from lorid_engine.train.memory import keep_freed_memory
from lorid_engine.train.options import TrainingOptions
from lorid_engine.train.trainer import Trainer

# Mean tokens of prompt and target on GSM8K with SmolLM2's tokenizer, roughly.
LENGTHS = {"ir": (75, 115), "kg": (80, 55), "dr": (135, 115)}
Examples = dict[str, list[Example]]


def use_all_cores() -> None:
    """As many threads for torch as the C++ backend takes, where that is there."""
    if cpu.why_not() is None:
        torch.set_num_threads(cpu.threads())


def computed_in(device: torch.device) -> torch.dtype:
    """What the base is held in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def random_examples(count: int, vocabulary: int, seed: int) -> Examples:
    """Examples of random tokens, whose lengths spread by a third."""
    random = np.random.default_rng(seed)
    examples: Examples = {}
    for role, means in LENGTHS.items():
        examples[role] = []
        for index in range(count):
            prompt, target = (max(8, int(random.normal(mean, mean / 3))) for mean in means)
            tokens = random.integers(0, vocabulary, prompt + target).astype(np.int32)
            examples[role].append(Example(index, index, tokens, prompt))
    return examples


class Ours:
    """All roles in one run."""

    def __init__(self, base: Path, examples: Examples, options: TrainingOptions, device: torch.device) -> None:
        config = ModelConfig.from_folder(base)
        weights = load_frozen(base, config, computed_in(device), device)
        adapters = RoleAdapters(
            config,
            options.roles,
            rank=options.rank,
            alpha=options.alpha,
            dropout=options.dropout,
            targets=options.targets,
            seed=options.seed,
            device=device,
        )
        self.trainer = Trainer(config, weights, adapters, examples, options)

    def step(self) -> dict[str, float]:
        """One step; the losses by role."""
        return self.trainer.step().loss


Batches = list[dict[str, list[Example]]]


class Theirs:
    """A PEFT model whose adapters are trained one after another."""

    def __init__(self, base: Path, batches: Batches, options: TrainingOptions, device: torch.device) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).to(device, computed_in(device))
        lora = LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=list(options.targets),
            task_type="CAUSAL_LM",
        )
        self._model: PeftModel = get_peft_model(model, lora, adapter_name=options.roles[0])
        for role in options.roles[1:]:
            self._model.add_adapter(role, lora)
        self._model.train()
        self._options, self._batches, self._done, self._device = options, batches, 0, device
        self._parameters: dict[str, list[torch.nn.Parameter]] = {}
        self._optimizers = {}
        for role in options.roles:
            self._model.set_adapter(role)
            self._parameters[role] = [p for p in self._model.parameters() if p.requires_grad]
            self._optimizers[role] = torch.optim.AdamW(
                self._parameters[role], lr=1e-9, weight_decay=0, fused=True if device.type == "cuda" else None
            )

    def step(self) -> dict[str, float]:
        """The batches of our next step; the losses by role."""
        losses = {}
        batch = self._batches[self._done]
        self._done += 1
        for role in self._options.roles:
            self._model.set_adapter(role)
            loss = self._loss(batch[role])
            loss.backward()
            clip_grad_norm_(self._parameters[role], self._options.max_grad_norm)
            self._optimizers[role].step()
            self._optimizers[role].zero_grad()
            losses[role] = loss.detach()
        return {role: float(loss) for role, loss in losses.items()}

    def _loss(self, examples: list[Example]) -> torch.Tensor:
        longest = max(example.rows for example in examples)
        tokens = torch.zeros(len(examples), longest, dtype=torch.int64)
        mask = torch.zeros(len(examples), longest, dtype=torch.int64)
        places, labels = [], []
        for number, example in enumerate(examples):
            tokens[number, : example.rows] = torch.from_numpy(example.tokens[:-1].astype(np.int64))
            mask[number, : example.rows] = 1
            places.append(torch.arange(example.prompt - 1, example.rows) + number * longest)
            labels.append(torch.from_numpy(example.tokens[example.prompt :].astype(np.int64)))
        model, device = self._model.base_model.model, self._device
        inputs = {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # as trainers run PEFT on GPUs
            hidden = model.model(**inputs, use_cache=False)[0]
            logits = model.lm_head(hidden.flatten(0, 1)[torch.cat(places).to(device)])
        return functional.cross_entropy(logits.float(), torch.cat(labels).to(device))


def timed(step: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    """Seconds of a step, and its losses."""
    start = time.perf_counter()
    losses = step()
    return time.perf_counter() - start, losses


def peak_gb(device: torch.device) -> float:
    """The most memory that this process has had, of the GPU if it computes there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def serve_theirs(
    connection: Connection, base: Path, batches: Batches, options: TrainingOptions, device: torch.device
) -> None:
    """In a process of its own: a step for every message."""
    use_all_cores()
    theirs = Theirs(base, batches, options, device)
    connection.send("ready")
    while connection.recv():
        connection.send(timed(theirs.step))
    connection.send(peak_gb(device))


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4, help="examples of a role in a step")
    parser.add_argument("--rows-per-pass", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--base", type=Path, help="a folder in Hugging Face's format; default: the default pack's base")
    parser.add_argument("--out", type=Path, default=Path("bench/results/train-speed"))
    arguments = parser.parse_args()
    use_all_cores()
    device = torch.device(arguments.device)
    base = arguments.base or resolve_base(load_pack().base, env.cache_dir())
    options = TrainingOptions(
        rank=arguments.rank,
        alpha=2.0 * arguments.rank,
        dropout=0.0,
        learning_rate=1e-9,  # the adapters stay where they are: every step has its batch's first losses
        batch_size=arguments.batch_size,
        rows_per_pass=arguments.rows_per_pass,
    )
    examples = random_examples(arguments.batch_size * (arguments.steps + 1), 49152, 0)
    if device.type == "cpu":
        keep_freed_memory()
    ours = Ours(base, examples, options, device)
    batches: Batches = []
    for step in range(arguments.steps + 1):
        sequences = ours.trainer.sequences(step)
        batches.append(
            {role: [s.example for s in sequences if s.slot == slot] for slot, role in enumerate(options.roles)}
        )
    context = multiprocessing.get_context("spawn")
    theirs, end = context.Pipe()
    process = context.Process(target=serve_theirs, args=(end, base, batches, options, device), daemon=True)
    process.start()
    theirs.recv()
    rows = []
    for step in range(arguments.steps + 1):
        tokens = sum(sequence.example.rows for sequence in ours.trainer.sequences(step))
        mine, losses = timed(ours.step)
        theirs.send(True)
        other, their_losses = theirs.recv()
        apart = max(abs(losses[role] - their_losses[role]) / their_losses[role] for role in losses)
        print(
            f"step {step}: {tokens / mine:.0f} against {tokens / other:.0f} tokens/s; losses {apart:.1e} apart",
            flush=True,
        )
        if step:  # the first allocates
            rows.append({"tokens": tokens, "ours_s": mine, "peft_s": other, "losses_apart": apart})
    theirs.send(False)
    peaks = {"ours": peak_gb(device), "peft": theirs.recv()}
    process.join()
    speeds = {name: [row["tokens"] / row[f"{name}_s"] for row in rows] for name in ("ours", "peft")}
    times = [row["peft_s"] / row["ours_s"] for row in rows]
    result = {
        "options": {name: str(value) for name, value in vars(arguments).items() if name != "out"},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "steps": rows,
        "tokens_per_second": {name: statistics.median(each) for name, each in speeds.items()},
        "times": {"median": statistics.median(times), "lowest": min(times), "highest": max(times)},
        "peak_memory_gb": peaks,
        "largest_loss_difference": max(row["losses_apart"] for row in rows),
    }
    table = [
        "| | tokens/s (lowest to highest) |",
        "| --- | --- |",
        *(
            f"| {title} | {statistics.median(speeds[name]):.0f} ({min(speeds[name]):.0f} to {max(speeds[name]):.0f}) |"
            for name, title in (
                ("ours", "lorid-engine, three roles in one run"),
                ("peft", "PEFT and torch, one role after another"),
            )
        ),
        "",
        f"{statistics.median(times):.2f} times as fast ({min(times):.2f} to {max(times):.2f}, step by step); "
        f"losses differ by at most {result['largest_loss_difference']:.1e}.",
        "",
        f"Peak memory: {peaks['ours']:.1f} GiB, against {peaks['peft']:.1f} GiB for one role at a time; three such runs at once "
        f"would have {3 * peaks['peft']:.1f} GiB.",
    ]
    write_result(arguments.out, result, "\n".join(table))


if __name__ == "__main__":
    main()
