"""A folder with the form of the LoRID authors' repository, as far as it is read: other words, the same constructs."""

from __future__ import annotations

from pathlib import Path

TRAIN = """
import yaml  # not installed here, and never imported


def preprocess_intuitive_reasoner(dataset, dataset_name):
    examples = []
    for item in tqdm(dataset):
        instruction = "Answer step by step."
        input_str = item["question"]
        if dataset_name == "gsm8k":
            output_str = item["rationale"] + f"\\n--> {item['answer']} END"
        elif dataset_name == "math":
            output_str = item["rationale"]
        else:
            raise ValueError("Unknown dataset name")
        examples.append({"instruction": instruction, "input": input_str, "output": output_str})


def preprocess_knowledge_generator(dataset, dataset_name):
    for item in tqdm(dataset):
        instruction = (
            "Write the rules."
        )
        input_str = f"Question: {item['question']}\\n\\nKnowledge: "
        output_str = "\\n".join(item["knowledge"])


def preprocess_deep_reasoner(dataset, dataset_name):
    for item in tqdm(dataset):
        instruction = "Reason {by} the rules."
        input_str = (
            f"Question: {item['question']}\\n\\nKnowledge: "
            + "\\n".join(item["knowledge"])
            + "\\n\\nRationale: "
        )
        if dataset_name == "gsm8k":
            output_str = item["rationale"] + f"\\n--> {item['answer']} END"
        elif dataset_name == "math":
            output_str = item["rationale"]


raise SystemExit("this file is read, not run")
"""
BASES = {
    "llama2": "meta-llama/Llama-2-7b-hf",
    "llama3": "meta-llama/Meta-Llama-3-8B",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "qwen": "Qwen/Qwen2.5-Math-7B",
    "deepseek": "deepseek-ai/deepseek-math-7b-base",
}
_MODULES = {"ir": "intuitive_reasoner", "kg": "knowledge_generator", "dr": "deep_reasoner"}


def write_clone(folder: Path) -> Path:
    """Writes the clone; it holds no adapters."""
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "train.py").write_text(TRAIN.replace("{by}", "by"))
    for dataset in ("gsm8k", "math"):
        for name, base in BASES.items():
            example = folder / "examples" / dataset / name
            example.mkdir(parents=True)
            for role, module in _MODULES.items():
                options = {
                    "module": module,
                    "model_name_or_path": base,
                    "template": name,
                    "output_dir_adapter": f"save/adapter/{dataset}/{name}/{module}",
                }
                lines = " \\\n".join(f"    --{key} {value}" for key, value in options.items())
                (example / f"train_{role.upper()}.sh").write_text(f"#!/bin/bash\n\npython src/train.py \\\n{lines}")
            lines = " \\\n".join(f"    --temperature_{role} 1.50 \\\n    --top_p_{role} 0.90" for role in _MODULES)
            (example / "predict.sh").write_text(f"#!/bin/bash\n\npython src/predict.py \\\n{lines}")
    return folder
