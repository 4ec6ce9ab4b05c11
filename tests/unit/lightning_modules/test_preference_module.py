"""The preference stage on pairs of different lengths, beside plain forward passes of each response alone."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules import PreferenceModule
from lightning_modules.reference import pairs_of, reference_logprobs
from prl.config import LoRA, ModelSource
from prl.data.rows.records import PreferencePair
from prl.models.loading import load_causal_lm, load_tokenizer
from prl.models.policy import model_inputs
from prl.objectives.preference import PreferenceBatch, PreferenceObjective, evaluate
from prl.rl.sharding import Sharding
from tests.helpers.preference import (
    Guided,
    GuidedWithoutReference,
    Logistic,
    OneNumber,
    OnlyChosen,
    Revising,
    RevisingNothing,
    RevisingWithoutPlace,
    TakesMargin,
    WithGold,
    WithLists,
    WithoutReference,
)
from tests.helpers.tiny import write_tiny_model

PROMPTS = [({"role": "user", "content": text},) for text in ("reverse dcab", "copy a", "x")]
PAIRS = [
    PreferencePair(PROMPTS[0], "bacd", "ab", extra={"gold": "abcd", "offset": 0.5}),
    PreferencePair(PROMPTS[1], "a", "a much longer response", preference=0.25, extra={"gold": "aa", "offset": -1}),
    PreferencePair(PROMPTS[2], "x", "xy", preference=0.5, weight=3.0, extra={"gold": "xx", "offset": 2}),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """Make a reference that is not the policy."""
    return ModelSource(path=str(write_tiny_model(tmp_path_factory.mktemp("start"), seed=5)))


def made(folder: Any, objective: PreferenceObjective, **settings: Any) -> Any:
    module: Any = PreferenceModule(ModelSource(path=str(folder)), objective, max_length=64, **settings)
    module.configure_model()
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.__setitem__(name, float(value))  # there is no trainer
    module.log_dict = lambda values, **_: module.logged.update(values)
    return module


def batch_of(module: Any, pairs: list[PreferencePair] = PAIRS) -> dict[str, torch.Tensor]:
    encoder = module.build_encoder()
    return encoder.collate([encoder.encode(pair) for pair in pairs])


def logprobs_of(source: ModelSource, view: str) -> list[list[float]]:
    """Of each response's tokens and its end token, in nats; every row alone, whole logits, in float64."""
    model = load_causal_lm(source).double()
    tokenizer = load_tokenizer(source)
    found = []
    for pair in PAIRS:
        text = pair.extra[view] if view == "gold" else getattr(pair, view)
        prompt = tokenizer(pair.prompt[0]["content"] + "\n")["input_ids"]
        response = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            all_logprobs = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
        found.append([float(all_logprobs[place, token]) for place, token in zip(places, response, strict=True)])
    return found


def test_objectives_see_what_plain_forward_passes_say(tiny_folder: Any, start: ModelSource) -> None:
    module = made(tiny_folder, WithGold(), reference=start)
    scores_from_values = module.score(batch_of(module))
    for view in ("chosen", "rejected", "gold"):
        for source, found in (
            (module.source, scores_from_values.views[view].logprobs),
            (start, scores_from_values.views[view].ref_logprobs),
        ):
            for row, expected in enumerate(logprobs_of(source, view)):
                assert found[row, : len(expected)].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
                assert not found[row, len(expected) :].any()
                assert scores_from_values.views[view].lengths[row] == len(expected)
    assert scores_from_values.views["gold"].logprobs.requires_grad
    assert not scores_from_values.views["gold"].ref_logprobs.requires_grad
    assert scores_from_values.target.tolist() == [1.0, 0.25, 0.5]
    assert scores_from_values.columns["offset"].tolist() == [0.5, -1.0, 2.0]


@pytest.mark.parametrize("packed", ["off", "on"])
def test_lists_are_read_in_the_same_pass_and_live_or_cached_alike(
    packed: str, tiny_folder: Any, start: ModelSource
) -> None:
    """A pair with a list is read as if it were alone, by policy and reference."""
    listed = [replace(PAIRS[0], extra={"answers": ["abcd", "b", "bacd"], "worth": [1, 0, -1]})]
    listed += [replace(PAIRS[1], extra={"answers": ["aa"], "worth": [2]})]
    module = made(tiny_folder, WithLists(), reference=start, packed=packed)
    batch = batch_of(module, listed)
    passes: list[int] = []
    module.model.model.register_forward_hook(lambda *args: passes.append(len(args[2].last_hidden_state)))
    pairs = module.score(batch)
    assert len(batch["input_ids"]) == 8
    assert passes[-1] == (8 if packed == "off" else 2)
    assert pairs.present("answers").tolist() == [[True] * 3, [True, False, False]]
    assert pairs.columns["worth"].tolist() == [[1, 0, -1], [2, 0, 0]]
    losses = module.objective.loss(pairs)
    answers = pairs.views["answers"]
    for number, (pair, places) in enumerate(zip(listed, ([0, 1, 2], [3]), strict=True)):
        alone = module.score(batch_of(module, [pair]))
        torch.testing.assert_close(module.objective.loss(alone), losses[number : number + 1])
        sharing = module.sharing["reference"]
        ours = reference_logprobs(module.reference, batch_of(module, [pair]), Sharding(), sharing)[2:]
        assert torch.equal(answers.ref_logprobs[places][:, : ours.shape[1]], ours)  # bits, in any company
        for place, text in zip(places, pair.extra["answers"], strict=True):
            as_chosen = module.score(batch_of(module, [replace(pair, chosen=text + "x", rejected=text)])).rejected
            torch.testing.assert_close(answers.logprob()[place], as_chosen.logprob()[0])
            torch.testing.assert_close(answers.log_ratio()[place], as_chosen.log_ratio()[0])
    assert not answers.mask[4:].any()
    loss = module.training_step(batch, 0)
    loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in module.model.parameters())


def test_revisions_are_what_the_models_say_behind_the_prompt_that_quotes(tiny_folder: Any, start: ModelSource) -> None:
    module, usual = (made(tiny_folder, each, reference=start) for each in (Revising(), Logistic()))
    pairs = module.score(batch_of(module))
    for name, (response, quoted) in Revising.revisions.items():
        texts = [pair.extra["gold"] if response == "gold" else getattr(pair, response) for pair in PAIRS]
        quotes = [pair.extra["gold"] if quoted == "gold" else getattr(pair, quoted) for pair in PAIRS]
        for row, (pair, text, quote) in enumerate(zip(PAIRS, texts, quotes, strict=True)):
            asked = pair.prompt[0]["content"]
            prompt = ({"role": "user", "content": f"{asked} {quote} {asked} x"},)
            as_chosen = usual.score(batch_of(usual, [PreferencePair(prompt, text, f"{text}x")])).chosen
            found = pairs.views[name]
            torch.testing.assert_close(found.logprob()[row], as_chosen.logprob()[0])
            torch.testing.assert_close(found.log_ratio()[row], as_chosen.log_ratio()[0])
    loss = module.training_step(batch_of(module), 0)
    loss.backward()
    assert all(each.grad is not None for each in module.model.parameters())


def test_guides_are_read_like_the_reference_and_do_not_learn(
    tiny_folder: Any, start: ModelSource, tmp_path: Any
) -> None:
    sources = {"teacher": start, "critic": ModelSource(path=str(write_tiny_model(tmp_path, seed=6)))}
    module = made(tiny_folder, Guided(0.3), guides=sources)
    pairs = module.score(batch_of(module))
    given: dict[str, Any] = {}
    for view in ("chosen", "rejected"):
        given |= {view: logprobs_of(module.source, view), f"ref_{view}": logprobs_of(module.source, view)}
        assert pairs.views[view].guides.keys() == {"teacher", "critic"}
        for name, source in sources.items():
            given[f"{name}_{view}"] = expected = logprobs_of(source, view)
            found = pairs.views[view].guides[name]
            assert not found.requires_grad
            for row, each in enumerate(expected):
                assert found[row, : len(each)].tolist() == pytest.approx(each, rel=1e-4, abs=1e-5)
                assert not found[row, len(each) :].any()
    losses = evaluate(Guided(0.3), **given, target=[1.0, 0.25, 0.5])
    loss = module.training_step(batch_of(module), 0)
    assert loss.item() == pytest.approx(float(losses @ torch.tensor([1.0, 1, 3]).double()) / 5, rel=1e-4)
    loss.backward()
    frozen = {name for name, _ in module.named_parameters() if not name.startswith("model.")}
    assert {name.split(".")[1] for name in frozen if name.startswith("guides.")} == sources.keys()
    assert frozen <= module.frozen_names()
    assert all(each.grad is None for name, each in module.named_parameters() if name in frozen)
    assert {name.partition("/")[0] for name in module.inputs()} == {
        "model.source",
        "model.guides.teacher",
        "model.guides.critic",
    }


def test_a_guide_needs_no_reference(tiny_folder: Any, start: ModelSource) -> None:
    module = made(tiny_folder, GuidedWithoutReference(), guides={"teacher": start}, reference_logprobs="cached")
    assert module.reference is None
    pairs = module.score(batch_of(module))
    assert pairs.chosen.ref_logprobs is None
    assert torch.isfinite(module.training_step(batch_of(module), 0))


def test_a_guide_with_other_token_ids_is_refused_before_weights_are_read(tiny_folder: Any, tmp_path: Any) -> None:
    folder = write_tiny_model(tmp_path)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    policy, guides = ModelSource(path=str(tiny_folder)), {"teacher": ModelSource(path=str(folder))}
    module = PreferenceModule(policy, GuidedWithoutReference(), guides=guides, max_length=64)
    with pytest.raises(
        ValueError, match=f"guides.teacher: the tokenizer in {folder} gives other token ids .*'[ab]' is"
    ):
        module.build_encoder()


def test_the_loss_is_the_weighted_mean_over_pairs(tiny_folder: Any, start: ModelSource) -> None:
    module = made(tiny_folder, Logistic(0.3), reference=start)
    policy, reference = (
        [logprobs_of(each, view) for view in ("chosen", "rejected")] for each in (module.source, start)
    )
    losses = evaluate(Logistic(0.3), *policy, *reference, target=[1.0, 0.25, 0.5])
    loss = module.training_step(batch_of(module), 0)
    assert loss.item() == pytest.approx(float(losses @ torch.tensor([1.0, 1, 3]).double()) / 5, rel=1e-4)
    loss.backward()
    assert all(each.grad is not None for each in module.model.parameters())
    assert all(each.grad is None for each in module.reference.parameters())


def test_what_is_logged(tiny_folder: Any, start: ModelSource) -> None:
    module = made(tiny_folder, Logistic(0.3), reference=start)
    sums = {
        (name, view): torch.tensor([sum(row) for row in logprobs_of(source, view)])
        for name, source in (("policy", module.source), ("reference", start))
        for view in ("chosen", "rejected")
    }
    rewards = {view: 0.3 * (sums["policy", view] - sums["reference", view]) for view in ("chosen", "rejected")}
    module.training_step(batch_of(module), 0)
    margin = rewards["chosen"] - rewards["rejected"]
    logged = module.logged
    for view in ("chosen", "rejected"):
        assert logged[f"rewards/{view}"] == pytest.approx(float(rewards[view].mean()), rel=1e-4)
        assert logged[f"logps/{view}"] == pytest.approx(float(sums["policy", view].mean()), rel=1e-4)
    assert logged["train/margin"] == pytest.approx(float((margin * torch.tensor([1.0, -0.5, 0.0])).mean()), rel=1e-4)
    right = [bool(margin[0] > 0), bool(margin[1] < 0)]  # the third is a tie
    assert logged["train/accuracy"] == sum(right) / 2
    assert "drift/chosen" not in logged  # this reference is not the start
    module.on_validation_epoch_start()
    for pair in PAIRS:
        module.validation_step(batch_of(module, [pair]), 0)
    module.on_validation_epoch_end()
    for name, tag in {"loss": "train/loss", "accuracy": "train/accuracy", "margin": "train/margin"}.items():
        assert logged[f"val/{name}"] == pytest.approx(logged[tag], rel=1e-4), name
    assert logged["val/rewards/chosen"] == pytest.approx(logged["rewards/chosen"], rel=1e-4)
    assert logged["val/drift/rejected"] == pytest.approx(float(rewards["rejected"].mean()) / 0.3, rel=1e-4)
    predicted = module.predict_step(batch_of(module), 0)
    assert [row["margin"] for row in predicted] == pytest.approx(margin.tolist(), rel=1e-4)
    assert predicted[1]["reward_chosen"] - predicted[1]["reward_rejected"] == pytest.approx(predicted[1]["margin"])
    assert predicted[0]["logprob_rejected"] == pytest.approx(float(sums["policy", "rejected"][0]), rel=1e-4)


def test_the_start_is_the_reference_and_the_drift_begins_at_zero(tiny_folder: Any) -> None:
    module = made(tiny_folder, Logistic())
    loss = module.training_step(batch_of(module), 0)
    assert loss.item() == pytest.approx(0.693147, abs=1e-5)
    assert module.logged["drift/chosen"] == pytest.approx(0, abs=1e-4)


def test_adapters_off_are_the_reference(tiny_folder: Any) -> None:
    module: Any = PreferenceModule(ModelSource(path=str(tiny_folder), lora=LoRA(rank=2)), Logistic(), max_length=64)
    module.configure_model()
    assert module.reference is None
    for name, parameter in module.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    batch = batch_of(module)
    scores_from_values, plain = module.score(batch), made(tiny_folder, Logistic()).score(batch)
    assert torch.equal(scores_from_values.chosen.ref_logprobs, plain.chosen.ref_logprobs)
    assert not torch.allclose(scores_from_values.chosen.logprobs, plain.chosen.logprobs, atol=1e-2)


def test_no_reference_is_read_without_need(tiny_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning_modules.preference_scoring as stage

    read = []
    monkeypatch.setattr(stage, "load_causal_lm", lambda source: read.append(source) or load_causal_lm(source))
    module = made(tiny_folder, WithoutReference())
    assert (len(read), module.reference) == (1, None)
    assert module.score(batch_of(module)).chosen.ref_logprobs is None
    assert torch.isfinite(module.training_step(batch_of(module), 0))


@pytest.mark.parametrize("packed", ["off", "auto", "on"])
def test_what_the_reference_says_of_a_pair_does_not_depend_on_its_batch(packed: str, tiny_folder: Any) -> None:
    """To the last bit, in any company."""
    module = made(tiny_folder, Logistic(), packed=packed)
    together = reference_logprobs(module.reference, batch_of(module), Sharding(), module.sharing["reference"])
    for number, pair in enumerate(PAIRS):
        alone = reference_logprobs(module.reference, batch_of(module, [pair]), Sharding(), module.sharing["reference"])
        for view in range(2):
            row = together[view * len(PAIRS) + number]
            assert torch.equal(row[: alone.shape[1]], alone[view])
            assert not row[alone.shape[1] :].any()


def test_pairs_are_taken_apart_without_the_padding_of_others(tiny_folder: Any) -> None:
    module = made(tiny_folder, WithGold())
    for pair, parts in zip(PAIRS, pairs_of(batch_of(module)), strict=True):
        alone = batch_of(module, [pair])
        for found, name in zip(parts, ("input_ids", "attention_mask", "loss_mask"), strict=True):
            assert torch.equal(found, alone[name])


@pytest.mark.parametrize("packed", ["off", "on"])
def test_the_policy_reads_all_responses_in_one_pass_and_its_head_no_prompt(packed: str, tiny_folder: Any) -> None:
    module = made(tiny_folder, WithGold(), packed=packed)
    batch = batch_of(module)
    module.model(**model_inputs(batch["input_ids"], batch["attention_mask"]))
    module.score(batch)  # tries the head on its first pass
    passes: list[int] = []
    head_rows: list[int] = []
    module.model.model.register_forward_hook(lambda *args: passes.append(len(args[2].last_hidden_state)))
    module.model.lm_head.register_forward_hook(lambda *args: head_rows.append(args[2].shape[:-1].numel()))
    module.score(batch)
    assert passes == [9 if packed == "off" else 2]
    assert sum(head_rows) == 1 + int(batch["loss_mask"].sum())  # and the one state that the model itself shows it


SOURCE = ModelSource(path="folder")
RANDOM = ModelSource(config={"model_type": "llama"}, tokenizer="folder")
REFUSED: dict[str, tuple[PreferenceObjective, dict[str, Any], str]] = {
    "no rejected": (OnlyChosen(), {}, r"OnlyChosen declares the views \['chosen'\]; expected chosen and rejected"),
    "a label": (TakesMargin(), {}, "TakesMargin declares 'margin', which a preference pair has for something else"),
    "a revision of nothing": (
        RevisingNothing(),
        {},
        "RevisingNothing.revisions has 'gold' at 'best', which is not among",
    ),
    "a revision that quotes nothing": (
        RevisingWithoutPlace(),
        {},
        "RevisingWithoutPlace.revision_prompt is '{prompt} x'; expected a text with {prompt} and {response}",
    ),
    "reference without need": (
        WithoutReference(),
        {"reference": SOURCE},
        "reference is set, but WithoutReference needs no reference; leave it out",
    ),
    "cache without need": (
        WithoutReference(),
        {"reference_logprobs": "cached"},
        "reference_logprobs: cached is set, but WithoutReference needs no reference",
    ),
    "random start": (Logistic(), {"model": RANDOM}, "Logistic needs a reference, and the model has random weights"),
    "random reference": (Logistic(), {"reference": RANDOM}, "reference has random weights .config., which measure"),
    "learning reference": (
        Logistic(),
        {"reference": ModelSource(path="folder", lora=LoRA())},
        "reference.lora is set, but a reference does not learn",
    ),
    "no guide": (
        Guided(),
        {"guides": {"teacher": SOURCE}},
        "guides.critic is not set, but Guided reads the log-probabilities of this frozen model; set model.init_args",
    ),
    "no guides": (
        GuidedWithoutReference(),
        {},
        "guides.teacher is not set, .*; set model.init_args.guides.teacher to {path: FOL",
    ),
    "a guide without need": (
        Logistic(),
        {"guides": {"teacher": SOURCE}},
        "guides.teacher is set, but Logistic reads no guide of this name .it reads none.; leave it out",
    ),
    "another guide": (
        GuidedWithoutReference(),
        {"guides": {"teacher": SOURCE, "critic": SOURCE}},
        "guides.critic is set, but GuidedWithoutReference reads no guide of this name .it reads teacher.",
    ),
    "learning guide": (
        GuidedWithoutReference(),
        {"guides": {"teacher": ModelSource(path="folder", lora=LoRA())}},
        "guides.teacher.lora is set, but a guide does not learn; leave it out",
    ),
    "random guide": (
        GuidedWithoutReference(),
        {"guides": {"teacher": RANDOM}},
        "guides.teacher has random weights .config., which measure nothing; use path",
    ),
    "another packing": (Logistic(), {"packed": "yes"}, "packed is 'yes'; expected auto, on or off"),
    "another way": (Logistic(), {"reference_logprobs": "never"}, "reference_logprobs is 'never'; expected 'live' or"),
}


@pytest.mark.parametrize(("objective", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_needs_are_checked_before_anything_is_read(objective: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceModule(**{"model": SOURCE, "objective": objective, **settings})


def test_a_name_that_is_a_view_and_a_column_is_refused() -> None:
    class Twice(Logistic):
        views = ("chosen", "rejected", "gold")
        columns = ("gold",)

    with pytest.raises(ValueError, match="Twice declares 'gold' twice, among its views and columns"):
        PreferenceModule(SOURCE, Twice())


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"guides": ("ref",)}, "Odd declares the guide 'ref'; expected a plain name, not ref, reference or model"),
        ({"guides": ("a b",)}, "Odd declares the guide 'a b'"),
        ({"guides": ("values",)}, "Odd declares the guide 'values'"),
        (
            {"columns": ("a",), "probabilities": ("b",)},
            "Odd declares the probability 'b', which is not among its colum",
        ),
    ],
)
def test_declarations_that_cannot_be_served_are_refused(declared: dict[str, Any], message: str) -> None:
    odd = type("Odd", (Logistic,), declared)
    with pytest.raises(ValueError, match=message):
        PreferenceModule(SOURCE, odd())


def test_a_mean_in_place_of_losses_is_refused(tiny_folder: Any) -> None:
    module = made(tiny_folder, OneNumber())
    with pytest.raises(ValueError, match=r"OneNumber.loss gave shape \(\); expected a loss for each of 3 pairs, \[B\]"):
        module.training_step(batch_of(module), 0)


def test_losses_without_a_gradient_are_refused_in_training_alone(tiny_folder: Any) -> None:
    class Detached(Logistic):
        def loss(self, batch: PreferenceBatch) -> Tensor:
            return super().loss(batch).detach()

    module = made(tiny_folder, Detached())
    with pytest.raises(ValueError, match=r"Detached.loss gave losses without a gradient, so nothing can be learnt"):
        module.training_step(batch_of(module), 0)
    with torch.no_grad():
        module.validation_step(batch_of(module), 0)
