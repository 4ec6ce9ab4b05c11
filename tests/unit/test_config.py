import pytest

from prl.advantages.gae import GAE
from prl.config import CriticSettings, KLPenalty, LoRA, ModelSource, Optimization
from prl.objectives.policy.ppo import PPO


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (CriticSettings, {"value_clip_range": -1.0}, "critic.value_clip_range is -1.0; expected null or a positive"),
        (CriticSettings, {"value_coef": -1.0}, "critic.value_coef is -1.0"),
        (CriticSettings, {"warmup_until": 0.5}, "critic.warmup is 0; expected a budget, with critic.warmup_until"),
        (PPO, {"clip_range": 1.5}, r"PPO.clip_range is 1.5; expected a number in \(0, 1\)"),
        (PPO, {"clip_range_high": -0.5}, "PPO.clip_range_high is -0.5"),
        (PPO, {"dual_clip": 1.0}, "PPO.dual_clip is 1.0; expected null or above 1"),
        (PPO, {"entropy_coef": -1.0}, "PPO.entropy_coef is -1.0; expected 0 or more"),
        (GAE, {"critic_lambda": 7.0}, r"GAE.critic_lambda is 7.0; expected a number in \[0, 1\]"),
        (GAE, {"length_adaptive_alpha": 0.0}, "GAE.length_adaptive_alpha is 0.0"),
        (Optimization, {"beta2": 2.0}, "optimization.beta2 is 2.0"),
        (Optimization, {"weight_decay": -1.0}, "optimization.weight_decay is -1.0"),
        (KLPenalty, {"coef": 0.0, "target": 1.0}, "kl.coef is 0.0; expected above 0 with a target"),
        (ModelSource, {"config": {"model_type": "llama"}, "tokenizer": "x", "lora": LoRA()}, "use path"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
