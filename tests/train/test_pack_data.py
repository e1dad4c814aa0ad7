"""What the default pack's data are made of: what marks hold, and questions with other numbers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "bench" / "packs"
sys.path.insert(0, str(FOLDER))

SHOP = {
    "id": 7,
    "question": "Ines buys 14 lamps for $23 each and a rug for $1,150. She sells 9% of nothing. How much does she pay?",
    "answer": "The lamps cost 14*23=$<<14*23=322>>322.\nIn all that is 322 + 1,150 = $<<322+1150=1472>>1,472.\n#### 1,472",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [("48+24", 72), ("2*(3+.5)", 7), ("$1,150-150", 1000), ("007+1", 8), ("20/100*450", 90)],
)
def test_what_a_mark_comes_to(text: str, value: int) -> None:
    from marks import evaluate, parse

    assert evaluate(parse(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "57**2",
        "x+49",
        "57+(",
        "1/0",
        "",
        "1e400+1",
        "0x10+5",
        "1_0+5",
        "-" * 9999 + "1",
        "9" * 99 + "*9",
        "+".join("1" * 900),
        "(" * 200 + "1" + ")" * 200,
    ],
)
def test_marks_that_hold_no_arithmetic(text: str) -> None:
    from marks import UnfitError, evaluate, parse

    with pytest.raises(UnfitError):
        evaluate(parse(text))


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
    assert len(rows) == 3 * 3 + 1 + 3
    files.data.write_text("mine")
    assert script.make_files(script.parse(common)) == files and files.data.read_text() == "mine"
    with pytest.raises(script.DataError, match="made with other options"):
        script.make_files(script.parse([*common, "--wordings", "2"]))
