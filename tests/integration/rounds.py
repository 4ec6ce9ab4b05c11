"""Tiny rounds of sampling, judging and training, by the command line."""

from pathlib import Path
from typing import Any

import yaml

from tests.integration.runs import CONFIGS, Home


class Killed(BaseException):
    """Ends a command as a signal would, from the inside."""


def killed_after(original: Any, allowed: int) -> Any:
    """Wrap a function that is to raise `Killed` after so many calls."""
    left = iter(range(allowed))

    def stopped(*given: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return original(*given, **named)

    return stopped


def made(out: Path) -> dict[str, bytes]:
    """Read everything that rounds leave and that must not depend on a kill."""
    rows = [path for path in sorted(out.rglob("*.jsonl")) if "ledger" not in path.name]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*rows, *sorted(out.rglob("model.safetensors"))]}


def rounds_settings(home: Home) -> dict[str, Any]:
    """Two rounds of two steps, with a checkpoint behind each step."""
    options = {
        "trainer.max_steps": 2,
        "trainer.enable_progress_bar": False,
        "trainer.limit_val_batches": 0,
        "trainer.val_check_interval": None,
        "checkpoint.every_n_batches": 1,
        "data.init_args.batch_size": 4,
        "model.init_args.optimization": {"learning_rate": 0.01, "schedule": "constant", "warmup": 0},
        "data.init_args.validation.path": str(home.data("pairs.validation")),
    }
    return {
        "rounds": {"number": 2, "prompt_shares": 2, "extrapolation": 0.5},
        "pairs": {
            "policy": {"path": str(home.policy)},
            "prompts": {"path": str(home.data("prompts.train")), "limit": 24},
            "reward": {"class_path": "GenerativeJudge", "init_args": {"path": str(home.judge)}},
            "sampling": {"per_prompt": 4, "max_new_tokens": 5},
            "checks": {"orders_agree": False, "keep_unfinished": True},
            "batch_size": 16,
        },
        "fit": {"configs": [str(CONFIGS / "quickstart" / "preference.yaml")], "options": options},
        "validation": {"path": str(home.data("prompts.validation")), "limit": 6},
    }


def write_rounds(home: Home, path: Path, **settings: Any) -> Path:
    """Write their config, with sections in place of those above."""
    path.write_text(yaml.safe_dump(rounds_settings(home) | settings))
    return path


def rounds_arguments(config: Path, out: Path, *more: str) -> list[str]:
    """Write the command."""
    return ["rounds", "--config", str(config), "--out", str(out), *more]
