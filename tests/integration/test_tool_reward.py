"""A whole PPO run on a reward model that calls tools, through the command line."""

import json
import math
from pathlib import Path

import pytest
import torch

from prl.config import ModelSource
from prl.models.language_scorer import load_language_scorer
from prl.rewards.tool_reward import save_tool_reward
from tests.helpers.tiny import tiny_tokenizer
from tests.integration.runs import Home, Numbers, callback, differences, find_callback, last_checkpoint

MODEL = "--model.init_args."


@pytest.mark.slow
def test_ppo_learns_from_a_reward_that_calls_tools_and_resumes_exactly(home: Home, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load_language_scorer(ModelSource(path=str(home.policy)))
    torch.nn.init.normal_(model.score.weight, std=0.3)
    save_tool_reward(tmp_path / "reward", model, tiny_tokenizer(), 64)
    tools = {"sum": {"class_path": "prl.tools.Calculator", "init_args": {"digits": 9}}}
    given = {"path": str(tmp_path / "reward"), "max_trace_tokens": 12, "tools": tools}
    reward = (f"{MODEL}reward", json.dumps({"class_path": "prl.rewards.ToolReward", "init_args": given}))
    constant = (f"{MODEL}optimization.schedule", "constant")  # others know the last step
    cli = home.run("pairwise_ppo", tmp_path / "whole", *reward, *constant, callback(Numbers))
    assert cli.model.reward.tools["sum"].digits == 9
    for each in find_callback(cli.trainer, Numbers).training:
        assert math.isfinite(each["reward/score"])
        assert {"rewards/tool_calls/mean", "rewards/failed_calls/mean"} <= each.keys()
    home.run("pairwise_ppo", tmp_path / "cut", *reward, *constant, f"{MODEL}iterations", "2")
    home.run("pairwise_ppo", tmp_path / "cut", *reward, *constant, "--ckpt_path", "last")
    whole, cut = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "cut")
    for part in ("state_dict", "optimizer_states", "run_state"):
        assert differences(whole[part], cut[part]) == []
