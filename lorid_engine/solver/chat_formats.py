"""Forms of a single question to a chat model: LLaMA-Factory's between 0.9.1 and 0.9.2, the time of the authors' pins, and plain ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorid_engine.errors import PackError

_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


@dataclass(frozen=True)
class ChatFormat:
    """A chat template, for one turn.

    Attributes:
        before, after: what stands around the user's text, the base's begin-of-text token included.
        stop: tokens that end the answer besides the base's end-of-text token.
    """

    before: str
    after: str
    stop: tuple[str, ...] = ()

    @property
    def special(self) -> frozenset[str]:
        """Its special tokens."""
        return frozenset(_SPECIAL.findall(self.before + self.after))

    def prompt(self, user: str) -> str:
        """The prompt of a user's text; where training put a space before the answer, the model writes it."""
        return f"{self.before}{user}{self.after}"


CHAT_FORMATS = {
    "deepseek": ChatFormat("<｜begin▁of▁sentence｜>User: ", "\n\nAssistant:"),  # noqa: RUF001 (the token's own letters)
    "llama2": ChatFormat("<s>[INST] ", " [/INST]"),
    "llama3": ChatFormat(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|eot_id|>", "<|eom_id|>"),
    ),
    "mistral": ChatFormat("<s>[INST] ", "[/INST]"),
    "qwen": ChatFormat(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        ("<|im_end|>",),
    ),
}

PLAIN = ChatFormat("", "\n\n")
TURNS = {
    "ChatML": ChatFormat("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", ("<|im_end|>",)),
    "Llama 3": CHAT_FORMATS["llama3"],
}


def chat_format(name: str) -> ChatFormat:
    """A template by LLaMA-Factory's name.

    Raises:
        PackError: one that is not known; the message lists those that are.
    """
    if name not in CHAT_FORMATS:
        raise PackError(f"the chat template {name!r} is not known; known: {', '.join(CHAT_FORMATS)}")
    return CHAT_FORMATS[name]
