"""The calculator: which drawn digits it replaces, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from fakes import byte_tokenizer
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.solver import Solver, SolverConfig
from lorid_engine.solver.calculator import Calculator
from lorid_engine.solver.pack import Pack
from lorid_engine.solver.role_requests import RoleJob
from tiny_pack import make_engine, make_pack


def merging_tokenizer() -> Tokenizer:
    """Tokens of up to three digits, of a space and a digit, and of `=.`, as some bases have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    digits = [str(number) for number in range(10)]
    pairs = [a + b for a in digits for b in digits]
    merges = [(a, b) for a in digits for b in digits] + [(pair, digit) for pair in pairs for digit in digits]
    merges += [("\u0120", digit) for digit in digits] + [("=", ".")]
    vocabulary = [*alphabet, *("".join(merge) for merge in merges)]
    rust = tokenizers.Tokenizer(models.BPE({text: id for id, text in enumerate(vocabulary)}, merges))
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}| \d|=\.|[^\d]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = decoders.ByteLevel()
    return Tokenizer(rust, {})


def spaced_tokenizer() -> Tokenizer:
    """As Llama-2's: a space is a mark at a token's beginning, which is not shown where a text begins."""
    characters = [chr(code) for code in range(33, 127)]
    vocabulary = ["<unk>", "\n", "\u2581", *characters, *("\u2581" + digit for digit in "0123456789")]
    merges = [("\u2581", digit) for digit in "0123456789"]
    rust = tokenizers.Tokenizer(models.BPE({text: id for id, text in enumerate(vocabulary)}, merges, unk_token="<unk>"))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    rust.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return Tokenizer(rust, {})


TOKENIZERS = {"bytes": byte_tokenizer(), "merging": merging_tokenizer(), "spaced": spaced_tokenizer()}


def written(tokenizer: Tokenizer, text: str, drawn: str) -> str:
    """What stands after a text when these characters were drawn, token by token."""
    calculator, start, equals = Calculator(tokenizer), len(text), tokenizer.encode_plain("=")
    for token in tokenizer.encode_plain("=" + drawn)[len(equals) :]:
        text += tokenizer.decode([*equals, calculator(text, token)]).removeprefix("=")
    return text[start:]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "drawn", "result"),
    [
        ("3 + 4 =", " 7 apples", " 7 apples"),
        ("3 + 4 =", " 8 apples", " 7 apples"),
        ("3 + 4 = $", "9", "7"),
        ("x = 3 + 4 =", "8", "7"),
        ("<<3*5=", "16>>", "15>>"),
        ("2*2=", "9, so", "4, so"),
        ("54/5 =", ".8", "10"),
        # Not the calculator's
        ("10/3 =", " 3.33", " 3.33"),
        ("5 - 8 = -", "3", "3"),
        ("3 + 4 =", " x", " x"),
        ("3 + 4 = 7\n#### ", "8", "8"),
        ("x =", " 5", " 5"),
        ("3 + 4", " 9", " 9"),
        ("3 + 4 = 9", "1", "1"),  # another number already
        ("3 + 4 = 7 and ", "8", "8"),
        ("", "5", "5"),
    ],
)
def test_results(name: str, text: str, drawn: str, result: str) -> None:
    assert written(TOKENIZERS[name], text, drawn)[: len(result)] == result


@pytest.mark.parametrize(
    ("text", "drawn", "result"),
    [
        ("100 * 12 = ", "13~~", "1200"),  # whatever is drawn, the result is written to its end
        ("54/5 = ", "1080", "10.8"),
        ("4 * 5.5 = $", "22.50", "22.00"),
        ("1.75 + 1.5 = $", "3.257", "3.25\n"),
        ("1.75 + 1.25 = $", "3.00", "3.00"),
        ("2*2=", "40", "4\n"),  # the number ends there
        ("2*2=", "4 0", "4 \n"),
        ("2*2=", "4,0", "4, "),
        ("2*2=", "4.", "4."),
        ("2*2=", "4.567", "4.00\n"),
        ("2*2=£", "5", "4"),
    ],
)
def test_whole_results(text: str, drawn: str, result: str) -> None:
    assert written(TOKENIZERS["bytes"], text, drawn) == result


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.integers(0, 9999), st.integers(0, 9999), st.integers(0, 10**9), st.sampled_from(["", " ", " $", "$"]))
def test_every_sum_is_right(name: str, a: int, b: int, drawn: int, before: str) -> None:
    text = written(TOKENIZERS[name], f"so {a} + {b} =", f"{before}{drawn:09d}")
    assert text.replace("$", "").split()[0] == str(a + b)


@given(st.text(), st.integers(0, 255))
def test_any_text_and_token(text: str, token: int) -> None:
    assert 0 <= Calculator(TOKENIZERS["bytes"])(text, token) < 256


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(tmp_path_factory.mktemp("pack"))


def test_who_computes(pack: Pack) -> None:
    engine = make_engine(pack)
    assert not any(RoleJob("a?", role, 1, "r").request(engine, pack, 0, {}).replace_token for role in ("ir", "dr"))
    computing = replace(pack, calculator=True)
    found = {role: RoleJob("a?", role, 1).request(engine, computing, 0, {}).replace_token for role in ("ir", "kg")}
    assert found == {"ir": Calculator(engine.tokenizer), "kg": None}
    for given_pack, config, computes in [
        (pack, None, False),
        (computing, None, True),
        (pack, SolverConfig(calculator=True), True),
        (computing, SolverConfig(calculator=False), False),
    ]:
        assert Solver(engine, given_pack, config).pack.calculator is computes
