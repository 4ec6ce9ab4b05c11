"""Settings of training stages in earlier versions, and where each is now; the same table is in CHANGELOG.md."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

_GAE, _PPO, _SHAPERS = "prl.advantages.GAE", "prl.objectives.policy.PPO", "prl.rewards.shapers"
_PAIRWISE, _BRADLEY_TERRY = "prl.objectives.reward.Pairwise", "prl.objectives.reward.BradleyTerry"
_CRITIC = {"critic": "kind", "critic_model": "model", "critic_learning_rate": "learning_rate"}
_OF_KL = ("coef", "estimator", "placement", "target", "horizon")
_OF_UPDATE = ("epochs", "minibatches", "microbatch_size", "aggregation", "stop_kl", "max_grad_norm")
_OF_GAE = ("gamma", "gae_lambda", "critic_lambda", "length_adaptive_alpha")
_OF_PPO = ("clip_range", "clip_range_high", "dual_clip", "entropy_coef")
_OF_RESOURCES = ("offload_frozen", "shard_judges", "gather_rollouts")
_GONE = "no setting: it changes the distribution that tokens are drawn from, so ratios and KL would be wrong"

RENAMED_SETTINGS = {
    "judge": "reward",
    "reward.mapping": f"a shaper in shaping: {_SHAPERS}.LogOdds, MeanProbability or CenteredProbability; none for "
    "probability",
    "reward.max_log_odds": f"clip of {_SHAPERS}.LogOdds in shaping",
    "reward.missing_eos": f"{_SHAPERS}.MissingEOS in shaping (replace: true for replace; no such shaper for keep)",
    "reward.missing_eos_value": f"value of {_SHAPERS}.MissingEOS in shaping",
    "reward.overlong_penalty": f"penalty of {_SHAPERS}.Overlong in shaping",
    "reward.overlong_buffer": f"buffer of {_SHAPERS}.Overlong in shaping",
    "reward.judge_thoughts": "judge_thoughts",
    **{f"reward.kl_{name}": f"kl.{name}" for name in _OF_KL},
    **{f"ppo.{name}": f"update.{name}" for name in _OF_UPDATE},
    **{f"ppo.{name}": f"{name} of {_GAE} in advantage" for name in _OF_GAE},
    "ppo.whiten_advantages": f"whiten of {_GAE} in advantage",
    **{f"ppo.{name}": f"{name} of {_PPO} in objective" for name in _OF_PPO},
    "ppo.value_coef": "critic.value_coef",
    "ppo.value_clip_range": "critic.value_clip_range",
    "ppo.critic_warmup": "critic.warmup",
    "ppo.critic_warmup_until": "critic.warmup_until",
    "critic": "critic.kind",
    "critic_model": "critic.model",
    "critic_learning_rate": "critic.learning_rate",
    **{name: f"resources.{name}" for name in _OF_RESOURCES},
    "rollout_server": "sampler, with class_path: prl.rollouts.RolloutServer",
    **{
        f"sampling.{name}": _GONE
        for name in ("top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size")
    },
    **{f"sampling.{name}": _GONE for name in ("min_new_tokens", "num_beams")},
    "label_smoothing": f"label_smoothing of {_PAIRWISE} in objective (of BradleyTerry for a scalar model), at half of "
    "its value: the share of labels that are taken to be wrong",
    "verdict_loss": f"verdict_coef and language_coef of {_PAIRWISE} in objective: 1 and 0 for two_tokens, 0 and 1 for "
    "full_vocabulary",
    "consistency_coef": f"consistency_coef of {_PAIRWISE} in objective, or logit_consistency_coef for log_odds",
    "consistency": f"a choice of terms of {_PAIRWISE} in objective: consistency_coef for probability, "
    "logit_consistency_coef for log_odds",
    "language_coef": f"language_coef of {_PAIRWISE} in objective",
}
"""Setting under `init_args` -> where it is now, in words that end a sentence. No stage has one of these today."""


def old_settings(init_args: Mapping[str, Any]) -> Iterator[str]:
    """Find settings of earlier versions among the `init_args` of a stage."""
    for name, value in init_args.items():
        if name in RENAMED_SETTINGS and (name != "critic" or isinstance(value, str)):
            yield name
        elif isinstance(value, Mapping):
            yield from (f"{name}.{each}" for each in value if f"{name}.{each}" in RENAMED_SETTINGS)


def _convert_pairwise_ppo(old: Mapping[str, Any]) -> dict[str, Any]:
    gone = {each.partition(".")[0] for each in old_settings(old)}
    new = {name: value for name, value in old.items() if name not in gone}
    ppo, reward, server = old.get("ppo") or {}, old.get("reward") or {}, old.get("rollout_server")
    new |= {"reward": old["judge"], "shaping": _shaping(reward), "judge_thoughts": reward.get("judge_thoughts", False)}
    new["kl"] = {name: reward[f"kl_{name}"] for name in _OF_KL if f"kl_{name}" in reward}
    new["update"] = _picked(ppo, _OF_UPDATE)
    gae = _picked(ppo, _OF_GAE)
    gae |= {"whiten": ppo["whiten_advantages"]} if "whiten_advantages" in ppo else {}
    new["advantage"] = {"class_path": _GAE, "init_args": gae}
    new["objective"] = {"class_path": _PPO, "init_args": _picked(ppo, _OF_PPO)}
    critic = {name: old[key] for key, name in _CRITIC.items() if key in old}
    critic |= {name.removeprefix("critic_"): ppo[name] for name in ppo if name.startswith(("value_", "critic_warmup"))}
    new["critic"], new["resources"] = critic, _picked(old, _OF_RESOURCES)
    new["sampler"] = None if server is None else {"class_path": "prl.rollouts.RolloutServer", "init_args": server}
    new["sampling"] = _picked(old.get("sampling") or {}, ("max_new_tokens", "temperature", "per_prompt"))
    return new


def _picked(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Pick the settings of these names, where they are given."""
    return {name: settings[name] for name in names if name in settings}


def _shaping(reward: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the shapers that do what the settings of the reward did, in the order in which it was done."""
    shapers: list[dict[str, Any]] = []

    def add(name: str, **settings: Any) -> None:
        shapers.append({"class_path": f"{_SHAPERS}.{name}", "init_args": settings})

    mapping = reward.get("mapping", "probability")
    if mapping == "log_odds":
        add("LogOdds", clip=reward.get("max_log_odds", 5.0))
    elif mapping != "probability":
        add({"mean_probability": "MeanProbability", "centered": "CenteredProbability"}[mapping])
    if (missing := reward.get("missing_eos", "penalise")) != "keep":
        value = reward.get("missing_eos_value")
        add("MissingEOS", value=1.0 if value is None else value, replace=missing == "replace")
    if reward.get("overlong_penalty"):
        add("Overlong", penalty=reward["overlong_penalty"], buffer=reward.get("overlong_buffer", 16))
    return shapers


def _convert_reward(objective: str, old: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the settings of a judge's or reward model's loss into its objective."""
    new = {name: value for name, value in old.items() if name not in RENAMED_SETTINGS}
    settings: dict[str, Any] = {"label_smoothing": old.get("label_smoothing", 0.0) / 2}
    if objective == _PAIRWISE:
        two_tokens = old.get("verdict_loss", "two_tokens") == "two_tokens"
        settings["verdict_coef"] = 1.0 if two_tokens else 0.0
        settings["language_coef"] = old.get("language_coef", 0.0) if two_tokens else 1.0
        of_logits = old.get("consistency") == "log_odds"
        settings["logit_consistency_coef" if of_logits else "consistency_coef"] = old.get("consistency_coef", 0.0)
    return {**new, "objective": {"class_path": objective, "init_args": settings}}


_CONVERTERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "PairwisePPOModule": _convert_pairwise_ppo,
    "GenerativeRewardModule": partial(_convert_reward, _PAIRWISE),
    "BradleyTerryRewardModule": partial(_convert_reward, _BRADLEY_TERRY),
}
STAGES = tuple(_CONVERTERS)
"""The classes whose settings the table has."""


def convert_settings(stage: str, old: Mapping[str, Any]) -> dict[str, Any]:
    """Write the settings of an earlier version, all of them, as those of this one.

    Args:
        stage: one of `STAGES`.
        old: resolved `init_args`, as a run writes them into its config.
    """
    return _CONVERTERS[stage](old)
