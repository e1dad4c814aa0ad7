"""A clone of the LoRID authors' repository: what it says of prompts, bases and sampling. Its code is parsed, never run."""

from __future__ import annotations

import ast
import contextlib
import itertools
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorid_engine.errors import PackError
from lorid_engine.solver.pack import ROLES

DATASETS = ("gsm8k", "math")
_FUNCTIONS = {
    "ir": "preprocess_intuitive_reasoner",
    "kg": "preprocess_knowledge_generator",
    "dr": "preprocess_deep_reasoner",
}
# A value of a training row, while a text is put together from a syntax tree.
_VALUES = ("question", "knowledge", "rationale", "answer")
_TEXTS = ("instruction", "input_str", "output_str")  # the variables that hold them
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class RoleText:
    """What a role was trained on: the user's text with {question} and {knowledge}, and the target with {rationale}, {answer}."""

    user: str
    target: str


@dataclass(frozen=True)
class Example:
    """One of the authors' examples: a data set's folder for one base.

    Attributes:
        name: the folder's name.
        base: hub id of the base.
        template: LLaMA-Factory's name of the chat template.
        adapters: by role, where training leaves the adapter, relative to the clone.
        sampling: temperature and top_p by role, where the prediction script has them.
    """

    name: str
    base: str
    template: str
    adapters: Mapping[str, str]
    sampling: Mapping[str, Mapping[str, float]]


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            raise PackError(f"{path} is no file; a clone of the authors' repository has it")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise PackError(f"{path} is larger than any script of the authors")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"{path} cannot be read ({error}); a clone of the authors' repository has it") from None


def read_role_texts(clone: Path, dataset: str) -> dict[str, RoleText]:
    """Prompts and targets of the three roles, from src/train.py.

    Raises:
        PackError: the file is missing, or has not the form that it had when this was written; the message says where.
    """
    path = clone / "src" / "train.py"
    try:
        tree = ast.parse(_text_of(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PackError(f"{path} is not Python that can be parsed: {error}") from None
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    texts = {}
    for role, name in _FUNCTIONS.items():
        if name not in functions:
            raise PackError(f"{path} has no function {name}; is this a clone of the authors' repository?")
        values: dict[str, str] = {}
        try:
            _collect(functions[name].body, dataset, path, values)
        except RecursionError:
            raise PackError(f"{path}: {name} is nested deeper than any code of the authors") from None
        missing = set(_TEXTS) - values.keys()
        if missing:
            raise PackError(f"{path}: {name} does not set {', '.join(sorted(missing))} as texts")
        # LLaMA-Factory's alpaca rows: instruction and input, a line each, are what the user says.
        texts[role] = RoleText(f"{values['instruction']}\n{values['input_str']}", values["output_str"])
    return texts


def _collect(body: list[ast.stmt], dataset: str, path: Path, values: dict[str, str]) -> None:
    """The texts that a function's body assigns for a data set, loops and choices between data sets included."""
    for statement in body:
        if isinstance(statement, ast.For):
            _collect(statement.body, dataset, path, values)
        elif isinstance(statement, ast.If):
            chosen = _compared_dataset(statement.test)
            if chosen is not None:
                _collect(statement.body if chosen == dataset else statement.orelse, dataset, path, values)
            else:
                _refuse_changes(statement, path)
        elif isinstance(statement, ast.Assign) and [type(target) for target in statement.targets] == [ast.Name]:
            name = statement.targets[0].id  # type: ignore[attr-defined]
            if name in _TEXTS:
                values[name] = _text(statement.value, path)
        else:
            _refuse_changes(statement, path)


def _refuse_changes(statement: ast.stmt, path: Path) -> None:
    """Refuses a statement that sets one of the texts in any other way than those that are read."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in _TEXTS:
            raise PackError(f"{path}, line {node.lineno}: {node.id} is set in a way that is not understood")


def _compared_dataset(test: ast.expr) -> str | None:
    """The data set that `dataset_name == "..."` names; None for any other condition."""
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and isinstance(test.ops[0], ast.Eq):
        right = test.comparators[0]
        if test.left.id == "dataset_name" and isinstance(right, ast.Constant) and isinstance(right.value, str):
            return right.value
    return None


def _text(node: ast.expr, path: Path) -> str:
    """A text that is put together from constants and a row's values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, path) for part in node.values)
    if isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
        return _text(node.value, path)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, path) + _text(node.right, path)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value in _VALUES:
        return f"{{{node.slice.value}}}"
    if (  # "\n".join(item["knowledge"])
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "join"
        and isinstance(node.func.value, ast.Constant)
        and node.func.value.value == "\n"
        and len(node.args) == 1
    ):
        return _text(node.args[0], path)
    raise PackError(f"{path}, line {node.lineno}: a prompt is put together in a way that is not understood")


def answer_pattern(target: str) -> str | None:
    """The pattern of the answer that a target ends with; None where the rationale holds it itself (\\boxed).

    Raises:
        PackError: a target of another form.
    """
    if target == "{rationale}":
        return None
    parts = re.fullmatch(r"\{rationale\}\n([^{}\n]+)\{answer\}([^{}\n]*)", target)
    if parts is None:
        raise PackError(f"the target {target!r} has no answer in its last line")
    before, after = parts[1].strip(), parts[2].strip()
    return rf"{re.escape(before)}[ \t]*(.+?)[ \t]*{re.escape(after)}" if after else rf"{re.escape(before)}[ \t]*(.+)"


def read_example(clone: Path, dataset: str, name: str) -> Example:
    """An example's scripts.

    Raises:
        PackError: a script is missing or lacks an option, or the roles' scripts disagree.
    """
    folder = clone / "examples" / dataset / name
    options = {role: _script_options(folder / f"train_{role.upper()}.sh") for role in ROLES}
    same = {}
    for option in ("model_name_or_path", "template"):
        values = {role: options[role].get(option) for role in ROLES}
        if None in values.values() or len(set(values.values())) > 1:
            raise PackError(f"{folder}: the training scripts must have one --{option}; they have {values}")
        same[option] = str(values["ir"])
    for role in ROLES:
        if "output_dir_adapter" not in options[role]:
            raise PackError(f"{folder / f'train_{role.upper()}.sh'} has no --output_dir_adapter")
    adapters = {role: options[role]["output_dir_adapter"] for role in ROLES}
    for role, adapter in adapters.items():
        if not (clone / adapter).resolve().is_relative_to(clone.resolve()):
            raise PackError(
                f"{folder / f'train_{role.upper()}.sh'}: --output_dir_adapter {adapter} is not in the clone"
            )
    return Example(name, same["model_name_or_path"], same["template"], adapters, _sampling(folder / "predict.sh"))


def _sampling(script: Path) -> dict[str, dict[str, float]]:
    options = _script_options(script)
    sampling: dict[str, dict[str, float]] = {role: {} for role in ROLES}
    for role in ROLES:
        for key in ("temperature", "top_p"):
            value = options.get(f"{key}_{role}")
            try:
                if value is not None:
                    sampling[role][key] = float(value)
            except ValueError:
                raise PackError(f"{script}: --{key}_{role} must be a number; got {value!r}") from None
    return sampling


def _script_options(script: Path) -> dict[str, str]:
    """The --name value pairs of a shell script, which is split into words and not run."""
    text = _text_of(script).replace("\\\n", " ")
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise PackError(f"{script} cannot be split into words: {error}") from None
    pairs = itertools.pairwise(words)
    return {name[2:]: value for name, value in pairs if name.startswith("--") and not value.startswith("--")}


def find_example(clone: Path, dataset: str, base: str, name: str | None) -> Example:
    """The example of a base: by name, or whose base is called like it.

    Raises:
        PackError: there is none; the message lists those that there are.
    """
    folder = clone / "examples" / dataset
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not names:
        raise PackError(f"{clone} has no examples/{dataset}; give a clone of the authors' repository")
    if name is not None:
        if name not in names:
            raise PackError(f"there is no example {name!r} in {folder}; there are {', '.join(names)}")
        return read_example(clone, dataset, name)
    examples = []
    for each in names:
        with contextlib.suppress(PackError):  # one that is incomplete may be of another base
            examples.append(read_example(clone, dataset, each))
    called = Path(base).name.lower()
    for example in examples:
        if example.base.lower() == base.lower() or Path(example.base).name.lower() == called:
            return example
    known = ", ".join(f"{example.name} ({example.base})" for example in examples)
    raise PackError(f"no example of the authors has the base {base}; name the one it is like with --example: {known}")
