import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.quickstart import world
from prl.quickstart.tokenizer import build_tokenizer
from prl.quickstart.world import FAMILIES, SPLITS, WorldSizes, gold_quality, right_answer, split_of, write_world

SMALL = WorldSizes(300, 300, 300, 300, 300, 300)
PROMPTS = st.builds(lambda seed: world.sample_prompt(Random(seed), SPLITS[seed % 2]), st.integers(0, 10_000))
WORLD_TEXT = st.text(alphabet=world.LETTERS + world.LETTERS.upper() + "0123456789+ ", max_size=8)


def _read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    first, again, other = (write_world(tmp_path / name, seed, SMALL) for name, seed in [("a", 7), ("b", 7), ("c", 8)])
    for name, path in first.items():
        assert path.read_bytes() == again[name].read_bytes()
        assert path.read_bytes() != other[name].read_bytes()


def test_the_size_of_one_file_changes_no_other(tmp_path: Path) -> None:
    first = write_world(tmp_path / "a", 7, SMALL)
    second = write_world(tmp_path / "b", 7, WorldSizes(300, 300, 10, 300, 300, 300))
    assert len(_read(second["pairs.train"])) == 10
    assert first["prompts.train"].read_bytes() == second["prompts.train"].read_bytes()


def test_files_and_columns(tmp_path: Path) -> None:
    columns = {
        "demonstrations": {"prompt", "completion"},
        "pairs": {"prompt", "chosen", "rejected"},
        "prompts": {"prompt", "anchor"},
    }
    paths = write_world(tmp_path, 0, SMALL)
    assert set(paths) == {f"{kind}.{split}" for kind in columns for split in SPLITS}
    for name, path in paths.items():
        records = _read(path)
        assert path == tmp_path / f"{name}.jsonl"
        assert len(records) == 300
        assert all(set(record) == columns[name.split(".")[0]] for record in records)
        assert all(all(record.values()) for record in records), "an empty text"


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("reverse dcab", "bacd"),
        ("sort dcab", "abcd"),
        ("upper dcab", "DCAB"),
        ("double cab", "ccaabb"),
        ("add 12+7", "19"),
        ("next ahc", "bad"),
        ("ends dcab", "db"),
    ],
)
def test_right_answers(prompt: str, answer: str) -> None:
    assert right_answer(prompt) == answer


@pytest.mark.parametrize(
    ("prompt", "response", "quality"),
    [
        ("reverse dcab", "bxcd", 3 / 4),
        ("reverse dcab", "", 0.0),
        ("reverse dcab", "bacdd", 4 / 5),
        ("sort dcab", "abdc", (1 + 2 / 3) / 2),
        ("sort dcab", "abc", 6 / 7),
        ("upper dcab", "dcab", 1 / 2),
        ("upper dcab", "DcAB", 7 / 8),
        ("double cab", "ccaab", 5 / 6 * (5 / 6) ** 2),
        ("double cab", "ccaaba", 5 / 6),
        ("add 12+7", "18", 3 / 4),
        ("add 12+7", "29", 0.75**10),
        ("add 12+7", "019", 0.0),
        ("next abc", "bxd", 1 / 3),
        ("ends dcab", "dx", 1 / 4),
    ],
)
def test_partial_credit(prompt: str, response: str, quality: float) -> None:
    assert gold_quality(prompt, response) == pytest.approx(quality)


@given(PROMPTS, st.text(max_size=12) | WORLD_TEXT)
def test_gold_is_one_for_the_right_answer_and_less_for_all_others(prompt: str, response: str) -> None:
    assert gold_quality(prompt, right_answer(prompt)) == 1.0
    assert 0.0 <= gold_quality(prompt, response) <= 1.0
    assert (gold_quality(prompt, response) == 1.0) == (response == right_answer(prompt))


@given(PROMPTS, st.integers(0, 10_000))
def test_a_mistake_lowers_the_quality_of_the_right_answer(prompt: str, seed: int) -> None:
    answer = right_answer(prompt)
    mistaken = world.corrupt(Random(seed), prompt, answer)
    assert mistaken
    assert gold_quality(prompt, mistaken) < 1.0


@given(PROMPTS, WORLD_TEXT, WORLD_TEXT)
def test_preference_is_antisymmetric_and_follows_the_gold(prompt: str, first: str, second: str) -> None:
    forward = world.preference_probability(prompt, first, second)
    assert forward + world.preference_probability(prompt, second, first) == pytest.approx(1.0)
    assert world.LABEL_ERROR_RATE <= forward <= 1 - world.LABEL_ERROR_RATE
    gap = gold_quality(prompt, first) - gold_quality(prompt, second)
    assert (forward - 0.5) * gap >= 0.0


def test_like_responses_are_easier_to_compare() -> None:
    """The same two qualities, 3/4 and 1/2, are told apart better where the responses share more letters."""
    alike = world.preference_probability("reverse dcab", "bacx", "baxx")
    unlike = world.preference_probability("reverse dcab", "bacx", "xxcd")
    assert 0.5 < unlike < alike


def test_the_scale_of_quality_depends_on_the_family() -> None:
    assert len({family.sharpness for family in FAMILIES.values()}) >= 4
    assert len({family.quality for family in FAMILIES.values()}) >= 6


def test_no_prompt_is_in_two_splits(tmp_path: Path) -> None:
    prompts: dict[str, set[str]] = {split: set() for split in SPLITS}
    for seed in (0, 1):
        for name, path in write_world(tmp_path / str(seed), seed, SMALL).items():
            prompts[name.split(".")[1]] |= {record["prompt"] for record in _read(path)}
    assert not prompts["train"] & prompts["validation"]
    assert all(split_of(prompt) == split for split in SPLITS for prompt in prompts[split])
    for split in SPLITS:
        assert {prompt.split()[0] for prompt in prompts[split]} == set(FAMILIES)


def test_texts_are_short_and_known_to_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for record in world.preference_pairs(Random(0), "train", 1000):
        assert len(record["prompt"]) <= 14
        assert len(right_answer(record["prompt"])) <= 8
        for text in record.values():
            assert tokenizer.unk_token_id not in tokenizer.encode(text)


def test_demonstrations_are_wrong_as_often_as_stated() -> None:
    records = list(world.demonstrations(Random(0), "train", 4000))
    wrong = sum(record["completion"] != right_answer(record["prompt"]) for record in records) / len(records)
    assert wrong == pytest.approx(world.DEMONSTRATION_ERROR_RATE, abs=0.03)


def test_label_noise_is_what_the_annotator_model_says() -> None:
    """Labels against the gold order agree as often as the mean of the stated probabilities, and ties are rare."""
    records = list(world.preference_pairs(Random(0), "train", 8000))
    gaps = [
        gold_quality(record["prompt"], record["chosen"]) - gold_quality(record["prompt"], record["rejected"])
        for record in records
    ]
    agreement = sum(gap > 0 for gap in gaps) / len(gaps)
    expected = sum(
        max(probability, 1 - probability)
        for record in records
        for probability in [world.preference_probability(record["prompt"], record["chosen"], record["rejected"])]
    ) / len(records)
    ties = sum(gap == 0 for gap in gaps) / len(gaps)
    assert ties < 0.03
    assert agreement + ties / 2 == pytest.approx(expected, abs=0.012)
    assert 0.9 < expected < 1 - world.LABEL_ERROR_RATE


def test_the_responses_of_a_pair_differ() -> None:
    assert all(record["chosen"] != record["rejected"] for record in world.preference_pairs(Random(1), "train", 5000))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task named 'shout'.*reverse, sort"):
        gold_quality("shout abc", "ABC")
