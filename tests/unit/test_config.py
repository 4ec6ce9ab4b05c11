import pytest

from prl.config import PPO, LoRA, ModelSource, Optimization, Reward


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (PPO, {"value_clip_range": -1.0}, "ppo.value_clip_range is -1.0; expected null or a positive number"),
        (PPO, {"clip_range_high": -0.5}, "ppo.clip_range_high is -0.5"),
        (PPO, {"critic_lambda": 7.0}, "ppo.critic_lambda is 7.0"),
        (PPO, {"length_adaptive_alpha": 0.0}, "ppo.length_adaptive_alpha is 0.0"),
        (PPO, {"value_coef": -1.0}, "ppo.value_coef is -1.0"),
        (Optimization, {"beta2": 2.0}, "optimization.beta2 is 2.0"),
        (Optimization, {"weight_decay": -1.0}, "optimization.weight_decay is -1.0"),
        (Reward, {"missing_eos": "replace"}, "reward.missing_eos_value is None"),
        (Reward, {"kl_coef": 0.0, "kl_target": 1.0}, "reward.kl_coef is 0.0; expected above 0 with a kl_target"),
        (ModelSource, {"config": {"model_type": "llama"}, "tokenizer": "x", "lora": LoRA()}, "use path"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
