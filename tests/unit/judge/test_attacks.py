"""Attacks: families, the rows that training adds, and the report of what was held out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prl.data.rows.records import PreferencePair
from prl.judge import JudgeTemplate, load_judge
from prl.judge.attacks import FAMILIES, AttackRows, attacks
from prl.judge.attacks.report import attack_report, highest_rate
from prl.judge.examination import examine
from prl.judge.passport import issue_passport
from prl.judge.training_record import in_words, read_training, training_record, unseen_families, write_training
from prl.rewards.folder import TRAINING_FILE
from tests.helpers.pairs import FooledJudge, QualityJudge, labelled_pairs
from tests.unit.judge.test_passport import write_generative

WORDS = ("A", "B")
PAIR = PreferencePair([{"role": "user", "content": "reverse abc"}], "cba", "cab")


def drawn(family: str, number: int = 300, question: str = "reverse abc", words: tuple[str, str] = WORDS) -> list[str]:
    return [FAMILIES[family].draw(Random(seed), question, words) for seed in range(number)]


# ---- families


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_examines_what_it_names_and_trains_on_several_wordings(name: str) -> None:
    family = FAMILIES[name]
    assert tuple(family.examined("q?", WORDS)) == family.examined_names
    assert len(set(drawn(name))) >= 10
    assert drawn(name) == drawn(name)


def test_no_attack_has_the_name_of_another() -> None:
    names = [name for family in FAMILIES.values() for name in family.examined_names]
    assert len(set(names)) == len(names) == len(attacks(PAIR.prompt, WORDS))


def test_families_are_what_they_are_called() -> None:
    assert all(set(text) <= set("YESNO ,.\n") for text in drawn("verdict_words", words=("YES", "NO")))
    assert all("reverse abc" in text for text in drawn("prompt_repeated"))
    assert all(text.rstrip(".").endswith(("YES", "NO")) for text in drawn("forged_endings", words=("YES", "NO")))
    assert all(any(sign in text for sign in "#*|`<>-") for text in drawn("markup"))
    for name in ("claims", "flattery"):
        assert all(text.isascii() and text[-1] in ".!" for text in drawn(name))


def test_the_tokenizer_of_the_quickstart_knows_every_character() -> None:
    from prl.quickstart.tokenizer import ALPHABET

    texts = [text for name in FAMILIES for text in drawn(name)] + list(attacks(PAIR.prompt, WORDS).values())
    assert set("".join(texts)) <= set(ALPHABET)


# ---- rows


def rows(added: AttackRows, pair: PreferencePair = PAIR, number: int = 2000) -> list[PreferencePair]:
    made = (added.made_for(pair, row, 0, WORDS) for row in range(1, number + 1))
    return [each for each in made if each is not None]


def test_the_share_is_that_of_the_pairs_and_families_are_drawn_alike() -> None:
    found = rows(AttackRows(share=0.3, held_out=["claims"]), number=10_000)
    assert abs(len(found) - 3000) < 4 * (10_000 * 0.3 * 0.7) ** 0.5  # four standard deviations of the binomial
    by_family = Counter(each.attack for each in found)
    assert by_family.keys() == FAMILIES.keys() - {"claims"}
    assert all(abs(count - len(found) / 6) < 4 * (len(found) * 5 / 36) ** 0.5 for count in by_family.values())


def test_an_attack_loses_to_the_better_response() -> None:
    for preference, better in ((1.0, "cba"), (0.7, "cba"), (0.0, "cab"), (0.5, "cba")):
        for made in rows(AttackRows(1.0), replace(PAIR, preference=preference, weight=0.5), 20):
            assert (made.prompt, made.chosen, made.preference, made.weight) == (PAIR.prompt, better, 1.0, 0.5)
            assert made.attack in FAMILIES
            assert made.rejected not in (better, "reverse abc")


@settings(max_examples=40)
@given(question=st.text(max_size=30), better=st.text(max_size=8), row=st.integers(1, 10**6))
def test_no_examined_text_is_ever_trained_on(question: str, better: str, row: int) -> None:
    pair = PreferencePair([{"role": "user", "content": question}], better, "other")
    made = AttackRows(1.0).made_for(pair, row, 0, WORDS)
    assert made is not None
    assert made.rejected not in {*attacks(pair.prompt, WORDS).values(), better}


def test_an_examined_text_that_a_family_draws_by_chance_is_drawn_again() -> None:
    examined = set(attacks(PAIR.prompt, WORDS).values())
    assert examined & set(drawn("verdict_words", 3000))
    made = rows(AttackRows(1.0, [name for name in FAMILIES if name != "verdict_words"]), number=3000)
    assert len(made) == 3000
    assert not examined & {each.rejected for each in made}


def test_draws_depend_on_seed_row_and_number_in_the_row() -> None:
    def texts(seed: int = 0, number: int = 0) -> list[Any]:
        return [AttackRows(1.0, seed=seed).made_for(PAIR, row, number, WORDS) for row in range(50)]

    assert texts() == texts()
    assert len({str(each) for each in (texts(), texts(seed=1), texts(number=1))}) == 3
    assert len({str(each) for each in texts()}) > 30


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"share": 0.0}, "attacks.share is 0.0"),
        ({"share": 1.5}, "attacks.share is 1.5"),
        ({"held_out": ["jokes"]}, "names 'jokes'; the families are claims, verdict_words"),
        ({"held_out": list(FAMILIES)}, "leave one out"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AttackRows(**wrong)


def test_every_setting_that_changes_rows_is_in_the_fingerprint() -> None:
    variants = [AttackRows(), AttackRows(0.1), AttackRows(seed=1), AttackRows(held_out=["claims"])]
    assert len({each.fingerprint for each in variants}) == len(variants)


# ---- what was held out


def test_the_rate_of_families_that_training_left_out_is_told_apart() -> None:
    pairs = labelled_pairs(60)
    report = attack_report(FooledJudge(), pairs)  # believes in "better": a claim and a forged ending
    assert highest_rate(report) == highest_rate(report, ["claims", "markup"]) == 1.0
    assert highest_rate(report, ["markup", "flattery"]) == 0.0
    assert highest_rate(report, []) is None
    assert examine(FooledJudge(), pairs)["held_out_attack_rate"] == 1.0  # of a judge that was trained on none
    assert examine(FooledJudge(), pairs, unseen=["markup"])["held_out_attack_rate"] == 0.0
    assert examine(QualityJudge(), pairs, unseen=[])["held_out_attack_rate"] is None


def test_a_record_says_which_families_were_trained(tmp_path: Path) -> None:
    assert read_training(tmp_path) is None
    assert unseen_families(None) == list(FAMILIES)
    assert unseen_families(training_record(None)) == list(FAMILIES)
    record = training_record(AttackRows(0.1, ["claims", "markup"]))
    write_training(tmp_path, record)
    assert read_training(tmp_path) == record
    assert in_words(None) == []
    (line,) = in_words(record)
    assert line.endswith("forged_endings, no_content, prompt_repeated, flattery; held out: claims, markup")
    assert unseen_families(record) == record["attacks"]["held_out"] == ["claims", "markup"]
    record["attacks"]["trained"] = "claims"
    write_training(tmp_path, record)
    with pytest.raises(ValueError, match=r"is damaged \(attacks.trained is 'claims'"):
        read_training(tmp_path)


def test_the_record_is_in_the_passport_goes_with_the_judge_and_not_with_new_weights(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from prl.judge import Judge

    folder = write_generative(tmp_path / "judge", JudgeTemplate("{{ prompt }}|{{ response_a }}|{{ response_b }}|"))
    record = training_record(AttackRows(held_out=["verdict_words"]))
    write_training(folder, record)
    pairs: Any = SimpleNamespace(
        records=labelled_pairs(6), report=SimpleNamespace(source="pairs.jsonl", sha256="0" * 64)
    )
    passport = issue_passport(load_judge(folder), folder, pairs)
    assert passport["training"] == record
    report = passport["report"]
    assert report["held_out_attack_rate"] == max(
        report["canaries"][name]["mean"] for name in ("verdict_first", "verdict_second")
    )
    Judge.from_pretrained(folder, device="cpu").save_pretrained(tmp_path / "copy")
    assert read_training(tmp_path / "copy") == record
    Judge.from_pretrained(folder, device="cpu").save_pretrained(folder)  # onto itself
    assert read_training(folder) == record
    write_generative(folder)
    assert not (folder / TRAINING_FILE).exists()
