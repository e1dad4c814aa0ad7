"""What a teacher is asked, and how its answer is read: the general rules that a question needs (arXiv 2508.13037, stage 0)."""

from __future__ import annotations

import json
from typing import Any

_MOST_RULES = 8
_MOST_CHARACTERS = 400  # of a rule

SYSTEM = """\
You are an experienced mathematics teacher. You are given a problem and a worked solution. Write down the general rules that a \
student must know to find this solution alone.

- Two to five rules, in the order in which the solution uses them, together covering every step of it.
- Each rule is one sentence of about twelve words and says which quantities are combined, and how.
- Rules are general: no name, object, number or unit of this problem, and never its answer.

Answer with JSON alone: {"rules": ["...", "..."]}"""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"rules": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": _MOST_RULES}},
    "required": ["rules"],
    "additionalProperties": False,
}


def messages(question: str, solution: str) -> list[dict[str, str]]:
    """The chat that asks for a question's rules."""
    user = f"Problem:\n{question}\n\nSolution:\n{solution}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def read_rules(text: str | None) -> list[str]:
    """The rules in an answer; text around its JSON object is passed over.

    Raises:
        ValueError: there are none, or not such as were asked for.
    """
    if not text or not text.strip():
        raise ValueError("the answer is empty")
    start = text.find("{")
    if start < 0:
        raise ValueError("the answer has no JSON object")
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:])
    except RecursionError:
        raise ValueError("the answer's JSON is nested too deeply") from None
    rules = found.get("rules")
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise ValueError('the answer has no list of texts under "rules"')
    rules = [" ".join(rule.split()) for rule in rules]
    rules = [rule for rule in rules if rule]
    if not rules:
        raise ValueError("the answer has no rules")
    if len(rules) > _MOST_RULES or max(map(len, rules)) > _MOST_CHARACTERS:
        raise ValueError(
            f"the answer has more than {_MOST_RULES} rules, or one of more than {_MOST_CHARACTERS} characters"
        )
    return rules
