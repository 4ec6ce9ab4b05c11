"""`prl pairs`: ordinary preference rows of a policy's own responses, the same after a kill."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prl.cli.entry import main
from prl.config import ModelSource, Sampling
from prl.data import AnchoredPrompt, DataSource, PreferencePair, load_records
from prl.data.encoding import DemonstrationEncoder
from prl.data.rows.records import Demonstration
from prl.judge import Judge
from prl.pairs import beside
from prl.pairs.parts import Parts
from prl.rollouts.prompts import PromptSampler
from prl.types import Rollout
from tests.helpers.tiny import write_tiny_model
from tests.integration.runs import CONFIGS, Home


def command(home: Home, output: Path, *more: str) -> list[str]:
    return [
        *("pairs", "--policy", str(home.policy), "--prompts", str(home.data("prompts.train"))),
        *("--output", str(output), "--samples", "4", "--max_new_tokens", "5", "--limit", "10", "--batch_size", "8"),
        *("--keep_unfinished", "--any_order", *more),
    ]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_what_the_judge_says_and_train_a_policy(home: Home, tmp_path: Path, capsys) -> None:
    output = tmp_path / "new" / "pairs.jsonl"
    main(command(home, output, "--judge", str(home.judge), "--soft_labels"))
    told = capsys.readouterr().out
    made = rows(output)
    assert f"wrote {len(made)} pairs of 10 prompts" in told
    assert len(made) >= 5
    judge = Judge.from_pretrained(home.judge)
    columns = ([row[name] for row in made] for name in ("prompt", "chosen", "rejected"))
    verdict = judge.compare(*columns)
    assert verdict.win_prob.tolist() == pytest.approx([row["win_prob"] for row in made], abs=1e-5)
    for row in made:
        assert row["preference"] == row["win_prob"] > 0.5
        assert row["chosen_win_rate"] > row["rejected_win_rate"]
    assert len(load_records(DataSource(str(output)), PreferencePair).records) == len(made)
    about = json.loads(output.with_suffix(".provenance.json").read_text())
    assert about["counts"]["responses"] == 40
    assert {name.partition("/")[0] for name in about["inputs"]} == {"policy", "reward0"}
    assert sorted(path.name for path in output.parent.iterdir()) == ["pairs.jsonl", "pairs.provenance.json"]
    home.run("preference", tmp_path / "run", "--data.init_args.train.path", str(output))


def test_a_killed_command_goes_on_to_the_same_file(home: Home, tmp_path: Path, monkeypatch, capsys) -> None:
    rule = ["--reward", json.dumps({"class_path": "RuleReward", "init_args": {"rule": f"{__name__}.vowels"}})]
    rule += ["--rule", json.dumps({"class_path": "RejectionSampled", "init_args": {"keep": 4}}), "--lists"]
    other = tmp_path / "other"
    write_tiny_model(other, seed=9)
    rule += ["--proposal_logprobs", "--temperature", "2", "--calibration", str(other)]
    main(command(home, tmp_path / "whole.jsonl", *rule))
    add = Parts.add
    monkeypatch.setattr(Parts, "add", lambda self, start, *rest: add(self, start, *rest) if start < 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(command(home, tmp_path / "killed.jsonl", *rule))
    assert not (tmp_path / "killed.jsonl").exists()
    monkeypatch.undo()
    sampled = []
    monkeypatch.setattr(Parts, "add", lambda self, start, *rest: (sampled.append(start), add(self, start, *rest)))
    with pytest.raises(SystemExit):
        main(command(home, tmp_path / "killed.jsonl", *rule, "--seed", "1"))
    assert "killed.parts holds parts made with other settings (seed)" in capsys.readouterr().err
    main(command(home, tmp_path / "killed.jsonl", *rule))
    assert sampled == [4, 6, 8]
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    for row in rows(tmp_path / "whole.jsonl"):
        assert vowels(None, row["chosen"], None) > vowels(None, row["rejected"], None)
        assert {row["chosen"], row["rejected"]} <= set(row["responses"])
        counts = [vowels(None, text, None) for text in row["responses"]]
        assert 2 <= len(counts) == len(set(row["responses"])) <= 4
        # The number itself but for a constant; a mean over the others of differences is n / (n - 1) times as wide.
        lead = [count - sum(counts) / len(counts) for count in counts]
        assert row["rewards"] == pytest.approx([each * len(counts) / (len(counts) - 1) for each in lead])
        assert row["proposal_logprobs"] == pytest.approx(tempered_logprobs(home.policy, row, 2.0), abs=1e-4)
    calibrations = {row["prompt"][0]["content"]: row["calibration"] for row in rows(tmp_path / "whole.jsonl")}
    expected, of_policy = (one_sample_each(home, path, 2.0) for path in (other, home.policy))
    assert calibrations.items() <= expected.items()
    assert not calibrations.items() <= of_policy.items()
    more = ("--config", str(CONFIGS / "methods" / "brain.yaml"))
    more += ("--model.init_args.objective.init_args.proposal", "column")
    path = ("--data.init_args.train.path", str(tmp_path / "whole.jsonl"))
    path += ("--data.init_args.validation.path", str(tmp_path / "killed.jsonl"), "--data.init_args.batch_size", "2")
    home.run("preference", tmp_path / "run", *more, *path, "--trainer.max_steps", "1")


@pytest.mark.parametrize("source", ["judge", "reward"])
def test_the_best_response_of_each_prompt_is_an_ordinary_demonstration(
    source: str, home: Home, tmp_path: Path, capsys
) -> None:
    output = tmp_path / "best.jsonl"
    prompts = tmp_path / "prompts.jsonl"
    more = {"topic": "x", "completion": "old", "messages": [{"role": "user", "content": "old"}]}
    prompts.write_text("".join(json.dumps({**row, **more}) + "\n" for row in rows(home.data("prompts.train"))))
    reward = json.dumps({"class_path": "RuleReward", "init_args": {"rule": f"{__name__}.vowels"}})
    args = [*command(home, output, f"--{source}", {"judge": str(home.judge), "reward": reward}[source]), "--lists"]
    args[args.index("--prompts") + 1] = str(prompts)
    direction = {"attributes": ["vowels"], "template": "{vowels} {prompt}"}
    main([*args, "--rule", "BestOfN", "--directions", json.dumps(direction)])
    made = rows(output)
    assert f"wrote {len(made)} demonstrations of 10 prompts" in capsys.readouterr().out
    assert len(made) == 10
    for row in made:
        assert row["topic"] == "x"
        assert "messages" not in row  # which would be read as the row's prompt
        assert row["direction"] == {"vowels": 1.0}
        assert row["prompt"][0]["content"].startswith("100 ")
        assert row["candidates"] == len(row["responses"])
        best = row["responses"].index(row["completion"])
        assert row["rewards"][best] == max(row["rewards"])
        if source == "reward":
            counts = [vowels(None, text, None) for text in row["responses"]]
            assert row["reward"] == max(counts)
            assert row["mean_reward"] == pytest.approx(sum(counts) / len(counts))
    assert len(load_records(DataSource(str(output)), Demonstration).records) == 10
    path = ("--data.init_args.train.path", str(output), "--data.init_args.validation.path", str(output))
    home.run("supervised", tmp_path / "run", *path, "--trainer.max_steps", "1", "--data.init_args.batch_size", "2")


def tempered_logprobs(path: Path, row: dict, temperature: float) -> list[float]:
    """Compute what the policy says of each response of a row, and of the end behind it, from whole logits."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    found = []
    for text in row["responses"]:
        encoded = DemonstrationEncoder(tokenizer, 64).encode(Demonstration(row["prompt"], text))
        ids, num = torch.tensor([encoded["ids"]]), encoded["num_response"]
        logprobs = (model(ids).logits / temperature).log_softmax(-1)[0, :-1]
        found.append(float(logprobs.gather(1, ids[0, 1:, None])[-num:].sum()))
    return found


def one_sample_each(home: Home, path: Path, temperature: float) -> dict[str, str]:
    """Sample a model alone, two prompts at a time as the command does, with draws of their own."""
    prompts = load_records(DataSource(str(home.data("prompts.train")), limit=10), AnchoredPrompt).records
    settings = {"name": "", "max_prompt_length": 64, "seed": beside.SEED}
    sampler = PromptSampler(ModelSource(path=str(path)), Sampling(5, temperature), prompts, **settings)
    texts = [text for start in range(0, len(prompts), 2) for text in sampler.sample(start, 2).texts]
    return {prompt.prompt[0]["content"]: text for prompt, text in zip(prompts, texts, strict=True)}


def test_what_is_no_candidate_is_left_out_and_counted(home: Home, tmp_path: Path, monkeypatch, capsys) -> None:
    sample = PromptSampler.sample

    def spoilt(self: PromptSampler, start: int, number: int) -> Rollout:
        """Of the four responses to each prompt the second repeats the first, and the third is empty."""
        rollout = sample(self, start, number)
        texts = [rollout.texts[row - 1] if row % 4 == 1 else text for row, text in enumerate(rollout.texts)]
        texts = [" " if row % 4 == 2 else text or "x" for row, text in enumerate(texts)]
        last = [text if row % 4 < 3 else f"{text} last" for row, text in enumerate(texts)]
        return replace(rollout, texts=last, finished=torch.tensor([row % 8 != 7 for row in range(len(texts))]))

    monkeypatch.setattr(PromptSampler, "sample", spoilt)
    args = command(home, tmp_path / "pairs.jsonl", "--judge", str(home.judge))
    main([each for each in args if each != "--keep_unfinished"])
    told = {
        words: int(count)
        for count, words in (line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    }
    # Ten prompts: in every other one the last response hit the length limit, which leaves one candidate.
    assert told == {
        "responses": 40,
        "responses equal to another": 10,
        "responses that are empty": 10,
        "responses that hit the length limit": 5,
        "prompts with too few candidates": 5,
    }
    assert len(rows(tmp_path / "pairs.jsonl")) == 5


def test_several_policies_answer_and_rows_name_who_wrote_them(home: Home, tmp_path: Path, capsys) -> None:
    """Two policies and responses of a column; the third policy's are the best, for they have most vowels."""
    given = [json.loads(line) for line in home.data("prompts.train").read_text().splitlines()][:30]
    prompts = tmp_path / "prompts.jsonl"
    told = [{**row, "topic": "x", "texts": {"strong": ["aeiou" * 2, "aeiou" * 3]}} for row in given]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in told))
    reward = ["--reward", json.dumps({"class_path": "RuleReward", "init_args": {"rule": f"{__name__}.vowels"}})]
    others = ["--others", f"peer={write_tiny_model(tmp_path / 'peer', 7)}", "--written", "texts"]
    for chosen, rejected in (("strong", "peer"), ("peer", "self"), ("pool", "pool")):
        rule = {"class_path": "BySource", "init_args": {"chosen": chosen, "rejected": rejected}}
        output = tmp_path / f"{chosen}_{rejected}.jsonl"
        main(
            [
                *command(home, output, *reward, "--rule", json.dumps(rule), *others, "--limit", "30"),
                "--prompts",
                str(prompts),
            ]
        )
        made = rows(output)
        assert len(made) > 5
        mix = json.loads(output.with_suffix(".provenance.json").read_text())["mix"]
        same = sum(row["chosen_source"] == row["rejected_source"] for row in made) / len(made)
        assert mix["same_source"] == {"share": same, "num_pairs": len(made)}
        for row in made:
            assert "texts" not in row
            assert vowels(None, row["chosen"], None) > vowels(None, row["rejected"], None)
            if chosen != "pool":
                assert (row["chosen_source"], row["rejected_source"]) == (chosen, rejected)
            if chosen != "peer":
                assert (row["chosen"], row["chosen_source"]) == ("aeiou" * 3, "strong")
        if chosen == "strong":
            assert mix["separability"]["accuracy"] > 0.9
    some = tmp_path / "some.jsonl"
    told[1]["texts"] = {"weak": ["b", "c"]}
    some.write_text("".join(json.dumps(row) + "\n" for row in told))
    for name in ("strong", "strng"):
        nobody, rule = tmp_path / "nobody.jsonl", {"class_path": "BySource", "init_args": {"chosen": name}}
        asked = [*command(home, nobody, *reward, "--rule", json.dumps(rule), *others, "--limit", "4")]
        if name == "strng":
            with pytest.raises(SystemExit):
                main([*asked, "--prompts", str(some), "--output", str(tmp_path / "never.jsonl")])
            assert "the writers are self, peer, strong, weak" in capsys.readouterr().err
            continue
        main([*asked, "--prompts", str(some)])
        counts = json.loads(nobody.with_suffix(".provenance.json").read_text())["counts"]
        assert counts["prompts of which the rule chose nothing"] == 1
    output = tmp_path / "best.jsonl"
    best = command(home, output, *reward, "--rule", "BestOfN", *others, "--limit", "30", "--samples", "1")
    main([*best, "--prompts", str(prompts)])
    for row in rows(output):
        assert (row["completion"], row["completion_source"], row["topic"]) == ("aeiou" * 3, "strong", "x")
        assert "texts" not in row
    about = json.loads(output.with_suffix(".provenance.json").read_text())
    assert about["counts"]["demonstrations"] == 30
    assert "mix" not in about  # which is about two sides
    assert {name.partition("/")[0] for name in about["inputs"]} == {"policy", "others.peer"}


def vowels(prompt: object, response: str, row: object) -> float:
    return float(sum(letter in "aeiou" for letter in response))


def letters(prompt: object, response: str, row: object) -> float:
    return float(len(response))


SIGNALS = {"vowels": vowels, "letters": letters}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--reward", "NoSuch"], "--reward NoSuch"),
        (["--reward", "RuleReward", "--rule", '{"class_path": "RejectionSampled", "init_args": {"keep": 1}}'], "keep"),
        (["--reward", "RuleReward", "--policy", "./nowhere"], "nowhere"),
        (["--reward", "RuleReward", "--samples", "1"], "BestWorst chooses among at least 2 candidates"),
        (["--reward", "RuleReward", "--directions", '{"attributes": []}'], "directions.attributes is []"),
        (["--reward", "RuleReward", "--directions", '{"attribute": ["a"]}'], "--directions"),
        (
            ["--reward", "RuleReward", "--directions", '{"attributes": ["a"]}', "--written", "texts"],
            "directions and written are both set",
        ),
        (["--reward", "RuleReward", "--others", "peer"], "--others peer: expected NAME=MODEL"),
        (["--reward", "RuleReward", "--others", "pool=x"], "others names a policy 'pool'"),
        (
            ["--reward", "RuleReward", "--lists", "--proposal_logprobs", "--others", "peer=x"],
            "proposal_logprobs are those of the policy, and others write too",
        ),
        (
            ["--reward", "RuleReward", "--rule", '{"class_path": "BySource", "init_args": {"chosen": "peer"}}'],
            "BySource asks for the policy 'peer'; the policies are self",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_sampled(more, message, home: Home, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(command(home, tmp_path / "x.jsonl", *more))
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.glob("x.*"))


def test_the_first_signal_that_differs_labels_a_pair_and_undecided_pairs_are_counted(
    home: Home, tmp_path: Path, monkeypatch, capsys
) -> None:
    sources = {name: {"class_path": "RuleReward", "init_args": {"rule": f"{__name__}.{name}"}} for name in SIGNALS}
    given = {"sources": sources, "ranking": ["vowels", "letters"], "lower_is_better": ["letters"]}
    args = ["--reward", json.dumps({"class_path": "HERON", "init_args": given}), "--rule", "AllPairs"]
    main(command(home, tmp_path / "whole.jsonl", *args))
    told = capsys.readouterr().out
    made = rows(tmp_path / "whole.jsonl")
    about = json.loads((tmp_path / "whole.provenance.json").read_text())
    counts, margin = about["counts"], about["margins"]
    assert margin["vowels"] == 0
    assert margin["letters"] > 0
    for row in made:
        apart = [
            SIGNALS[name](None, row["chosen"], None) - SIGNALS[name](None, row["rejected"], None) for name in SIGNALS
        ]
        assert row["decided_by"] == ("vowels" if apart[0] else "letters")
        assert apart[0] > 0 or (apart[0] == 0 and -apart[1] > margin["letters"])
        assert row["win_prob"] == 1.0
    by = Counter(row["decided_by"] for row in made)
    assert {name: counts.get(f"pairs decided by {name}", 0) for name in SIGNALS} == {name: by[name] for name in SIGNALS}
    assert counts["pairs ties"] > 0
    assert f"wrote {len(made)} pairs of 10 prompts" in told
    assert len(made) == counts["pairs"] > 0

    add = Parts.add
    monkeypatch.setattr(Parts, "add", lambda self, start, *rest: add(self, start, *rest) if start < 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(command(home, tmp_path / "killed.jsonl", *args))
    monkeypatch.undo()
    main(command(home, tmp_path / "killed.jsonl", *args))
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(command(home, tmp_path / "other.jsonl", *args, "--lists"))
    assert "lists is about how far apart responses are, and HERON says only which wins" in capsys.readouterr().err


def test_demonstrations_are_chosen_over_one_sample_of_the_policy(home: Home, tmp_path: Path) -> None:
    """The pairs of inverse reinforcement learning: no judge is asked, and no sample is preferred to another."""
    given = [{"prompt": row["prompt"], "demo": row["prompt"][::-1]} for row in rows(home.data("prompts.train"))]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"prompt": row["prompt"], "answer": row["demo"], "more": {"demo": [row["demo"]]}}) + "\n"
            for row in given
        )
    )
    rule = json.dumps({"class_path": "BySource", "init_args": {"chosen": "demo", "rejected": "self"}})
    args = command(home, tmp_path / "pairs.jsonl", "--written", "more", "--rule", rule, "--reward", "RuleReward")
    args[args.index("--prompts") + 1], args[args.index("--samples") + 1] = str(prompts), "1"
    main(args)
    made = rows(tmp_path / "pairs.jsonl")
    demos = {row["prompt"]: row["demo"] for row in given}
    assert len(made) == 10
    for row in made:
        assert row["chosen"] == demos[row["prompt"][-1]["content"]] != row["rejected"]
        assert (row["chosen_source"], row["rejected_source"]) == ("demo", "self")
