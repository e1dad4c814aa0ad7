"""What the default pack's data are made of: marks that are worked out, and questions with other numbers."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "bench" / "packs"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")
sys.path.insert(0, str(FOLDER))

SHOP = {
    "id": 7,
    "question": "Ines buys 14 lamps for $23 each and a rug for $1,150. She sells 9% of nothing. How much does she pay?",
    "answer": "The lamps cost 14*23=$<<14*23=322>>322.\nIn all that is 322 + 1,150 = $<<322+1150=1472>>1,472.\n#### 1,472",
}


@pytest.mark.parametrize(
    ("mark", "steps"),
    [
        ("48+24=72", []),
        ("143+88=231", ["143 + 80 + 8", "223 + 8"]),
        ("143-88=55", ["143 - 80 - 8", "63 - 8"]),
        ("143+56=199", []),  # nothing is carried
        ("1500+800=2300", []),
        ("19*4=76", []),
        ("179*8=1432", ["800 + 560 + 72", "1360 + 72", "1360 + 70 + 2", "1430 + 2"]),
        ("47*36=1692", ["47 * 30 + 47 * 6", "1410 + 282"]),
        ("96/8=12", []),
        ("1365/5=273", ["1000 / 5 + 350 / 5 + 15 / 5", "200 + 70 + 3", "270 + 3"]),
        ("133/19=7", []),
        ("12/60=0.2", []),
        ("2.61*5=13.05", ["10 + 3 + 0.05", "13 + 0.05"]),
        ("100*375=37500", []),
        ("20/100*450=90", ["0.2 * 450"]),
        ("50+(143-88)/5=61", ["50 + (143 - 80 - 8) / 5", "50 + (63 - 8) / 5", "50 + 55 / 5", "50 + 11"]),
        ("900-(143-88)=845", ["900 - (143 - 80 - 8)", "900 - (63 - 8)", "900 - 55", "900 - 50 - 5", "850 - 5"]),
    ],
)
def test_how_arithmetic_is_worked_out(mark: str, steps: list[str]) -> None:
    from worked_steps import worked, working

    expression, result = mark.split("=")
    assert working(expression, result) == steps
    shown = " = ".join([expression, *steps, f"${result}"])
    assert worked(f"It is {expression} = $<<{mark}>>{result} now.") == f"It is {shown} now."


def test_marks_that_are_no_help_are_left_out() -> None:
    from worked_steps import worked

    wrong = ("143+88=232", "10/3=3.33", "57**2=3249", "x+49=106", "57+(=106", "1/0=0", "=", "1+1=1/0", "1+1=1e9999999")
    hostile = (
        "1e400+1=2",
        "0x10+5=21",
        "1_0+5=15",
        "-" * 9999 + "1=1",
        "9" * 99 + "*9=1",
        "+".join("1" * 900) + "=900",
    )
    for mark in (*wrong, *hostile, "99999999999999.25+16.75=100000000000016", "(" * 200 + "1" + ")" * 200 + "=1"):
        assert worked(f"so <<{mark}>>5 it is") == "so 5 it is"
    assert worked("She has <<143+88=231>>231 eggs") == "She has 143 + 88 = 143 + 80 + 8 = 223 + 8 = 231 eggs"


numbers = st.one_of(st.integers(0, 9999), st.integers(0, 9999).map(lambda n: n / 100)).map(lambda n: f"{n:.6g}")
expressions = st.recursive(
    numbers,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda e: f"({''.join(e)})"),
    max_leaves=5,
)


@given(expressions)
@settings(max_examples=400, deadline=None)
def test_every_step_comes_to_the_result(expression: str) -> None:
    from marks import UnfitError, evaluate, parse
    from worked_steps import working

    try:
        value = evaluate(parse(expression))
    except UnfitError:
        return
    if value >= 0 and (value * 100).denominator == 1:
        result = f"{float(value):.2f}"
        if Fraction(result) == value:
            assert all(evaluate(parse(step)) == value for step in working(expression, result))


def test_a_question_with_other_numbers() -> None:
    from marks import MARK, evaluate, parse, value_of
    from number_variants import variants

    found = list(variants([SHOP], each=5, seed=1))
    assert len(found) == 5 and found == list(variants([SHOP], each=5, seed=1)) != list(variants([SHOP], each=5, seed=2))
    assert len({row["question"] for row in found} | {SHOP["question"]}) == 6
    for row in found:
        assert row["id"] == 7 and "9% of nothing" in row["question"]
        asked = re.findall(r"\$?[\d,]+", row["question"])
        marks = [(parse(match[1]), value_of(match[2])) for match in MARK.finditer(row["answer"])]
        assert [evaluate(tree) for tree, _ in marks] == [value for _, value in marks]
        lamps, price, rug = (value_of(text.strip("$,")) for text in asked[:3])
        assert lamps * price == marks[0][1] and lamps * price + rug == marks[1][1]
        assert lamps < price < lamps * price < rug  # as it was
        assert row["answer"].endswith(f"#### {int(marks[1][1]):,}")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("He has 14 eggs and 23 more.", "He has 37.\n#### 37"),  # no mark
        ("He has 14 eggs and 23 more.", "It is <<14+23=36>>36.\n#### 36"),  # wrong
        ("He has 14 eggs and 23 more.", "It is <<14+23=37>>37, so 99.\n#### 99"),  # a number that no mark explains
        ("He has 14 eggs and 23 more, not 37.", "It is <<14+23=37>>37.\n#### 37"),  # a result that is asked, too
        ("He has 12 eggs and 24 more.", "It is <<12+24=36>>36.\n#### 36"),  # constants
        ("On the 14th at 23:00.", "It is <<14+23=37>>37.\n#### 37"),
        ("Fourteen hens and 14 more in 1999.", "It is <<14+1999=2013>>2013.\n#### 2013"),
        ("He has 14 eggs, and 23 in 5 boxes.", "It is 23*5=115, so <<14+115=129>>129.\n#### 129"),  # 115 is no mark's
        ("He has 14 eggs and 23 more of 40.", "Left <<40-23=17>>17, and so 40-26=14.\n#### 14"),  # nor is 14
        ("He has 13 eggs and 23 more.", "It is <<13+23=36>>36, = 23 + 13.\n#### 23"),
        ("Of 14% take 14%.", "It is <<.14*.14=0.0196>>0.0196.\n#### 0.0196"),
    ],
)
def test_questions_that_are_left_as_they_are(question: str, answer: str) -> None:
    from number_variants import variants

    assert list(variants([{"id": 1, "question": question, "answer": answer}], each=3, seed=0)) == []


def test_the_loop_is_replayed_on_pools() -> None:
    from choose_sampling import one_sample, replayed

    a, b, none = ("#### 4", 10, "4"), ("#### 5", 20, "5"), ("?", 30, None)
    rules = [[("1. Add.", 1, None)] * 2] * 2
    pools = {("ir", 0.3, 0.0): [[a, b], [b, none]], ("kg", 0.7, 0.0): rules, ("dr", 0.5, 0.7): [[b, b], [none, a]]}
    first, second = replayed(pools, ["5", "5"], 0.3, 0.7, 0.5)
    assert (first.agreed, first.right, first.tokens) == (True, True, 10 + 1 + 20 + 20 + 1 + 20)
    assert (second.agreed, second.right, second.tokens) == (False, True, 20 + 1 + 30 + 30 + 1 + 10)
    single = one_sample(pools, ["5", "5"])
    assert single["ir 0.3"]["value"] == 0.5 and single["dr 0.5, KG 0.7"]["value"] == 0.5


def test_the_temperatures_go_into_the_manifest(tmp_path: Path) -> None:
    from choose_sampling import write_sampling

    from lorid_engine.solver.packs import load_pack

    source = load_pack().folder / "pack.toml"
    manifest = tmp_path / "pack.toml"
    manifest.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    for role in ("ir", "kg", "dr"):
        (tmp_path / role).symlink_to(load_pack().folder / role)
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace("[roles.kg.sampling]", "[roles.kg.sampling]\nmax_tokens = 77")
    )
    write_sampling(manifest, 0.8, {"ir": 0.25, "kg": 0.5, "dr": 0.75})
    pack = load_pack(tmp_path)
    assert [pack.sampling_for(role)["temperature"] for role in ("ir", "kg", "dr")] == [0.25, 0.5, 0.75]
    assert pack.sampling_for("ir")["top_p"] == 0.8 and pack.sampling_for("kg")["max_tokens"] == 77
    assert pack.roles["dr"].template.text == load_pack().roles["dr"].template.text


def test_a_runs_data_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import smollm2_gsm8k as script

    lines = [{"question": SHOP["question"], "answer": SHOP["answer"]}] * 4
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    rules = [{"id": number, "knowledge": ["Multiply.", "Add."]} for number in range(4)]
    (tmp_path / "gsm8k_knowledge.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rules))
    monkeypatch.setattr(script, "SHA256", {name: script.file_sha256(tmp_path / name) for name in script.SHA256})
    common = [
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "pack"),
        "--held-out",
        "1",
        "--generated",
        "3",
        "--wordings",
        "3",
    ]
    files = script.make_files(script.parse(common))
    rows = [json.loads(line) for line in files.data.read_text().splitlines()]
    assert [row["id"] for row in rows].count(files.held_out[0]) == 1  # as it is, and in no other wording
    assert len(rows) == 3 * 3 + 1 + 3 and "<<" not in files.data.read_text() and "0 + " in files.data.read_text()
    files.data.write_text("mine")
    assert script.make_files(script.parse(common)) == files and files.data.read_text() == "mine"
    with pytest.raises(script.DataError, match="made with other options"):
        script.make_files(script.parse([*common, "--marks", "drop"]))
