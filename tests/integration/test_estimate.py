"""`prl estimate` on the shipped configs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules import estimates
from prl.cli.entry import main
from prl.config import ModelSource
from tests.integration.runs import CONFIGS, Home

MODEL = "--model.init_args."
KNOWN: dict[Home, dict[tuple[str, ...], dict[str, Any]]] = {}


def estimated(home: Home, stage: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Estimate a stage; of equal settings that are estimated again, give what was found."""
    known = KNOWN.setdefault(home, {})
    if (stage, *arguments) not in known:
        known[(stage, *arguments)] = estimated_now(home, stage, folder, *arguments)
    return known[(stage, *arguments)]


def estimated_now(home: Home, stage: str, folder: Path, *arguments: str) -> dict[str, Any]:
    main(["estimate", *home.arguments(stage, folder)[1:], *arguments, "--json", str(folder / "estimate.json")])
    return json.loads((folder / "estimate.json").read_text())


def models(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in report["models"]}


@pytest.mark.slow
def test_shards_divide_what_is_trained(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    overlay = ("--config", str(CONFIGS / "strategies" / "fsdp2.yaml"))
    whole = estimated_now(home, "pairwise_ppo", tmp_path, "--processes", "1")
    told = capsys.readouterr().out
    assert "policy" in told
    assert "update" in told
    shared = estimated(home, "pairwise_ppo", tmp_path, *overlay, "--processes", "4")
    assert (whole["rows_per_process"], shared["rows_per_process"]) == (8, 2)
    assert models(whole).keys() == models(shared).keys() == {"policy", "critic", "reference", "GenerativeJudge"}
    for name, each in models(whole).items():
        sharded = name != "GenerativeJudge"
        assert models(shared)[name]["weights"] == (each["weights"] + 3) // 4 if sharded else each["weights"]
        assert each["total"] == each["weights"] * (1 if name in ("reference", "GenerativeJudge") else 4)
    assert whole["phases"].keys() == {"rollout", "judge", "score", "update"}
    assert whole["peak"] == max(whole["phases"].values())
    assert whole["phases"]["update"] > whole["phases"]["score"]
    assert min(whole["phases"].values()) > sum(each["total"] for each in whole["models"])


def test_adapters_share_the_base_model(home: Home, tmp_path: Path) -> None:
    lora = (f"{MODEL}policy.lora.rank", "4", f"{MODEL}critic.kind", "adapter")
    found = models(estimated(home, "pairwise_ppo", tmp_path, *lora, "--processes", "1"))
    assert found.keys() == {"policy", "critic", "GenerativeJudge"}
    assert 0 < found["policy"]["gradients"] < found["policy"]["weights"]
    assert found["critic"]["num_trained"] == 17  # a head on 16 numbers; its adapters count with the policy's
    alone = models(
        estimated(home, "pairwise_ppo", tmp_path, *lora[:2], f"{MODEL}critic.kind", "shared", "--processes", "1")
    )
    assert found["policy"]["num_trained"] == 2 * alone["policy"]["num_trained"]


@pytest.mark.slow
def test_activations_computed_again_or_in_bfloat16_take_less(home: Home, tmp_path: Path) -> None:
    settings = ((), (f"{MODEL}policy.gradient_checkpointing", "true"), ("--trainer.precision", "bf16-mixed"))
    plain, again, mixed = (
        estimated(home, "pairwise_ppo", tmp_path, *arguments, "--processes", "1") for arguments in settings
    )
    assert again["phases"]["update"] < plain["phases"]["update"]
    assert again["phases"]["rollout"] == plain["phases"]["rollout"]
    assert models(mixed) == models(plain)  # weights that learn are float32
    lasting = sum(each["total"] for each in plain["models"])
    assert 0.5 < (mixed["phases"]["update"] - lasting) / (plain["phases"]["update"] - lasting) < 0.8
    assert mixed["phases"]["judge"] == plain["phases"]["judge"]  # it works in its own type


@pytest.mark.parametrize("stage", ["supervised", "generative_reward", "bradley_terry", "preference"])
def test_every_stage_is_estimated(stage: str, home: Home, tmp_path: Path) -> None:
    found = estimated(home, stage, tmp_path, "--processes", "2", "--trainer.strategy", "ddp")
    assert found["rows_per_process"] == 4
    assert found["peak"] > found["models"][0]["total"] > 0


def test_prompts_that_a_sampler_writes_are_sampled_from_too(home: Home, tmp_path: Path) -> None:
    overlay = ("--config", str(CONFIGS / "methods" / "rgr_grpo.yaml"))
    rollout = {}
    for length in (20, 480):
        arguments = home.arguments("pairwise_ppo", tmp_path)[1:]
        for other in (f"{MODEL}reward.init_args.path", f"{MODEL}critic.warmup"):  # what the overlay has none of
            place = arguments.index(other)
            del arguments[place : place + 2]
        settings = (f"{MODEL}sampler.init_args.max_prompt_length", str(length), "--processes", "1")
        arguments = [*arguments[:2], *overlay, *arguments[2:], *settings]
        main(["estimate", *arguments, "--json", str(tmp_path / "estimate.json")])
        rollout[length] = json.loads((tmp_path / "estimate.json").read_text())["phases"]["rollout"]
    assert rollout[480] > rollout[20]


def test_a_reward_model_that_writes_has_its_head_and_its_logits(home: Home, tmp_path: Path) -> None:
    overlay = ("--config", str(CONFIGS / "methods" / "themis.yaml"))
    arguments = home.arguments("bradley_terry", tmp_path)[1:]
    plain = estimated(home, "bradley_terry", tmp_path, f"{MODEL}max_length", "160", "--processes", "1")
    main(
        ["estimate", *arguments[:2], *overlay, *arguments[2:], "--processes", "1", "--json", str(tmp_path / "one.json")]
    )
    found = json.loads((tmp_path / "one.json").read_text())
    assert models(found)["score"]["num_trained"] == 16
    assert found["peak"] > plain["peak"] + 4 * 3 * 2 * 8 * 160 * 50  # at least fifty tokens of a vocabulary


def test_the_start_of_a_judge_that_reasons_is_counted_where_thoughts_are_held_to_it(home: Home, tmp_path: Path) -> None:
    overlay = ("--config", str(CONFIGS / "methods" / "reasoning_judge.yaml"), "--processes", "1")
    settings: tuple[tuple[str, ...], ...] = ((), (f"{MODEL}kl_coef", "0"), (f"{MODEL}model.lora.rank", "4"))
    held, free, adapted = (estimated(home, "generative_reward", tmp_path, *overlay, *each) for each in settings)
    assert models(held).keys() == {"model", "reference"}
    assert models(held)["reference"]["total"] == models(held)["model"]["weights"]
    assert models(free).keys() == models(adapted).keys() == {"model"}  # of adapters the start is their base
    assert held["peak"] > free["peak"] + models(held)["reference"]["total"]


@pytest.mark.slow
def test_a_reference_is_there_where_it_is_needed_and_as_long(home: Home, tmp_path: Path) -> None:
    settings: dict[str, tuple[str, ...]] = {
        "live": (),
        "cached": (f"{MODEL}reference_logprobs", "cached"),
        "adapters": (f"{MODEL}model.lora.rank", "4"),
        "no need": (f"{MODEL}objective", "tests.helpers.preference.WithoutReference"),
        "more views": (f"{MODEL}objective", "tests.helpers.preference.WithGold"),
    }
    found = {
        name: estimated(home, "preference", tmp_path, *arguments, "--processes", "1")
        for name, arguments in settings.items()
    }
    live, cached = found["live"], found["cached"]
    assert models(live).keys() == models(found["more views"]).keys() == {"policy", "reference"}
    assert models(live)["reference"]["total"] == models(live)["policy"]["weights"]
    for name in ("cached", "adapters", "no need"):
        assert models(found[name]).keys() == {"policy"}, name
    weights = models(live)["reference"]["total"]
    assert cached["phases"]["train"] == live["phases"]["train"] - weights == found["no need"]["phases"]["train"]
    assert cached["phases"]["reference"] == live["phases"]["reference"]
    lasting = sum(each["total"] for each in live["models"])
    three, two = (found[name]["phases"]["train"] - lasting for name in ("more views", "live"))
    assert three / two == pytest.approx(1.5, rel=0.05)  # responses of a pair


def test_heads_and_critics_are_counted_where_they_are(home: Home, tmp_path: Path) -> None:
    oreo, one = (f"{MODEL}objective", "OREO"), ("--processes", "1")
    lora = (f"{MODEL}model.lora.rank", "4")
    settings: dict[str, tuple[str, ...]] = {
        "spo": (f"{MODEL}objective", "SPO"),
        "own": oreo,
        "shared": (*oreo, f"{MODEL}critic.kind", "shared"),
        "adapter": (*oreo, *lora, f"{MODEL}critic.kind", "adapter"),
        "adapters": (*oreo, *lora, f"{MODEL}critic.kind", "shared"),
    }
    found = {name: estimated(home, "preference", tmp_path, *given, *one) for name, given in settings.items()}
    assert models(found["spo"])["heads.degree"]["num_trained"] == 4 * 17  # a bias beside 16 numbers
    assert models(found["shared"])["critic"]["num_trained"] == models(found["adapter"])["critic"]["num_trained"] == 17
    own = models(found["own"])
    assert own["critic"]["num_trained"] > 17
    assert own.keys() == {"policy", "critic", "reference"}
    assert models(found["adapter"])["policy"]["num_trained"] == 2 * models(found["adapters"])["policy"]["num_trained"]
    lasting = {name: sum(each["total"] for each in found[name]["models"]) for name in found}
    work = {name: found[name]["phases"]["train"] - lasting[name] for name in found}
    assert work["own"] > 1.5 * work["shared"]
    assert work["adapter"] > 1.5 * work["adapters"]


def test_trees_and_their_masks_are_counted_where_they_take_more(home: Home, tmp_path: Path) -> None:
    """Eager attention takes the square of a row; auto reads no tree whose square is more work than it saves."""
    eager = (f"{MODEL}model.attn_implementation", "eager", f"{MODEL}max_length", "128", "--processes", "1")
    phases = {}
    for mode in ("off", "auto", "on"):
        phases[mode] = estimated(home, "preference", tmp_path, *eager, f"{MODEL}packed", mode)["phases"]
    assert phases["off"]["train"] <= phases["auto"]["train"] < phases["on"]["train"]
    assert phases["off"]["reference"] <= phases["auto"]["reference"] < phases["on"]["reference"]


def test_guides_are_counted_beside_the_reference(home: Home, tmp_path: Path) -> None:
    guided = (f"{MODEL}objective", "TGDPO", f"{MODEL}guides", f"{{guide: {{path: {home.judge}}}}}")
    cached, one = (f"{MODEL}reference_logprobs", "cached"), ("--processes", "1")
    live, kept = (estimated(home, "preference", tmp_path, *guided, *each, *one) for each in ((), cached))
    plain, plain_kept = (estimated(home, "preference", tmp_path, *each, *one) for each in ((), cached))
    assert models(live).keys() == {"policy", "reference", "guides.guide"}
    assert live["phases"].keys() == {"train", "reference", "guides.guide"}
    guide = models(live)["guides.guide"]
    assert guide["total"] == guide["weights"] > models(live)["reference"]["total"]  # its head is not tied
    assert live["phases"]["train"] == plain["phases"]["train"] + guide["total"]
    assert kept["phases"]["train"] == plain_kept["phases"]["train"]  # frozen models are gone by then
    assert kept["phases"]["reference"] == plain_kept["phases"]["reference"] + guide["total"]
    assert kept["phases"]["guides.guide"] == live["phases"]["guides.guide"]


def test_a_plain_model_judges_up_to_the_length_that_the_run_sets(home: Home, tmp_path: Path) -> None:
    phases = {}
    for length in (None, 128):
        settings = {"path": str(home.policy), **({} if length is None else {"max_length": length})}
        reward = json.dumps({"class_path": "GenerativeJudge", "init_args": settings})
        report = estimated(home, "pairwise_ppo", tmp_path, f"{MODEL}reward", reward, "--processes", "1")
        phases[length] = report["phases"]
    assert phases[128]["judge"] < phases[None]["judge"]
    assert phases[128]["update"] == phases[None]["update"]


def test_both_models_of_an_implicit_reward_are_counted(home: Home, tmp_path: Path) -> None:
    settings = {"path": str(home.policy), "reference": str(home.policy), "max_length": 64}
    reward = json.dumps({"class_path": "ImplicitReward", "init_args": settings})
    found = models(estimated(home, "pairwise_ppo", tmp_path, f"{MODEL}reward", reward, "--processes", "1"))
    both = [found[f"ImplicitReward {role}"] for role in ("policy", "reference")]
    assert [each["total"] for each in both] == [found["reference"]["total"]] * 2


def test_a_guide_and_its_reference_are_counted_and_stay_whole(home: Home, tmp_path: Path) -> None:
    inner = {"class_path": "BradleyTerryJudge", "init_args": {"path": str(home.bradley_terry)}}
    models_of = {"guide": str(home.judge), "reference": str(home.policy)}
    reward = json.dumps({"class_path": "TokenGuide", "init_args": {"reward": inner, **models_of}})
    given = (f"{MODEL}reward", reward, f"{MODEL}resources.shard_judges", "true", "--processes", "4")
    overlay = ("--config", str(CONFIGS / "strategies" / "fsdp2.yaml"))
    whole, shared = (estimated(home, "pairwise_ppo", tmp_path, *more, *given) for more in ((), overlay))
    one, four = models(whole), models(shared)
    assert one.keys() == {
        "policy",
        "critic",
        "reference",
        "BradleyTerryJudge",
        "TokenGuide guide",
        "TokenGuide reference",
    }
    assert one["TokenGuide reference"]["total"] == one["reference"]["total"]
    assert one["TokenGuide guide"]["total"] > one["TokenGuide reference"]["total"]  # its head is not tied
    for name in ("BradleyTerryJudge", "reference"):
        assert four[name]["weights"] == (one[name]["weights"] + 3) // 4
    for name in ("TokenGuide guide", "TokenGuide reference"):
        assert four[name]["total"] == one[name]["total"]
    longer = (f"{MODEL}max_prompt_length", "400")
    assert estimated(home, "pairwise_ppo", tmp_path, *longer, *given)["phases"]["judge"] > whole["phases"]["judge"]


@pytest.mark.parametrize("overlay", sorted(path.name for path in (CONFIGS / "strategies").iterdir()))
def test_every_overlay_is_estimated(overlay: str, home: Home, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    found = estimated(
        home, "supervised", tmp_path, "--config", str(CONFIGS / "strategies" / overlay), "--processes", "4"
    )
    assert found["rows_per_process"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--processes", "3"), "data.init_args.batch_size is 8 and cannot be divided over 3 processes"),
        (("--processes", "0"), "--processes is 0; expected at least 1"),
        (("--processes", "2", "--trainer.strategy", "fsdp"), "trainer.strategy is torch's older FSDP; use fsdp2"),
        (("--processes", "2", "--trainer.precision", "bf16-true"), "trainer.precision is bf16-true, which would round"),
        (
            ("--processes", "2", f"{MODEL}model.dtype", "bfloat16"),
            "the model is to learn in bfloat16, where most steps",
        ),
    ],
)
def test_what_a_run_would_refuse_is_refused(arguments: Any, message: str, home: Home, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", *home.arguments("supervised", tmp_path)[1:], *arguments])
    assert message in capsys.readouterr().err


def test_devices_that_depend_on_the_machine_are_asked_for(home: Home, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", *home.arguments("pairwise_ppo", tmp_path)[1:], "--trainer.devices", "auto"])
    assert "trainer.devices is 'auto', which depends on the machine; give --processes" in capsys.readouterr().err


def test_a_judge_of_a_kind_that_nobody_knows_is_named(tmp_path: Path) -> None:
    (tmp_path / "prl_judge.json").write_text('{"kind": "mine"}')
    source = SimpleNamespace(model_sources=lambda: {"": ModelSource(path=str(tmp_path))})
    judge: Any = SimpleNamespace(leaves=lambda: [source])
    with pytest.raises(ValueError, match="is a judge of the kind 'mine', which cannot be estimated"):
        estimates._read_once(judge, 1, lambda make: make(), 8)
