"""What a teacher is asked, and how its answer is read: the general rules that a question needs (arXiv 2508.13037, stage 0)."""

from __future__ import annotations

import json
from typing import Any

_MOST_RULES = 8
_MOST_CHARACTERS, _LEAST_LETTERS = 400, 4  # of a rule
_MOST_BRACES = 50  # that are tried as the beginning of an answer

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
    user = f"Problem:\n{question}\n\nSolution:\n{solution}".encode("utf-8", "replace").decode()
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def _find(text: str) -> dict[str, Any]:
    """The first JSON object with rules; mathematics has braces of other kinds."""
    why, start = "the answer has no JSON object", -1
    for _ in range(_MOST_BRACES):
        start = text.find("{", start + 1)
        if start < 0:
            break
        try:
            found, _end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            why = f"the answer's JSON cannot be read: {error}"
            continue
        if isinstance(found, dict) and "rules" in found:
            return found
    raise ValueError(why)


def read_rules(text: str | None) -> list[str]:
    """The rules in an answer; text around its JSON object is passed over.

    Raises:
        ValueError: there are none, or not such as were asked for.
    """
    if not text or not text.strip():
        raise ValueError("the answer is empty")
    rules = _find(text).get("rules")
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise ValueError('the answer has no list of texts under "rules"')
    rules = [" ".join(rule.split()) for rule in rules]
    rules = [rule for rule in rules if rule]
    if not rules:
        raise ValueError("the answer has no rules")
    if any(sum(character.isalpha() for character in rule) < _LEAST_LETTERS for rule in rules):
        raise ValueError("one of the answer's rules is no sentence")
    if len(rules) > _MOST_RULES or max(map(len, rules)) > _MOST_CHARACTERS:
        raise ValueError(
            f"the answer has more than {_MOST_RULES} rules, or one of more than {_MOST_CHARACTERS} characters"
        )
    return rules
