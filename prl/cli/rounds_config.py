"""Settings of `prl rounds`, read by the same rules as those of `prl fit`."""

import json
from pathlib import Path
from typing import Any, cast

from jsonargparse import Namespace

import prl.judge
import prl.pairs.rules
import prl.rewards  # noqa: F401 - with the two above: makes short class names known
from prl.cli.places import find_config
from prl.cli.rounds_stage import check_stage
from prl.cli.usage import Parser
from prl.data import DataSource
from prl.pairs.making import PairMaker
from prl.rewards.base import RewardSource
from prl.rounds.kept import contents
from prl.rounds.settings import Fit, Rounds

SEEDS = 1_000_003
"""Distance of the seeds of two rounds, more than a file has prompts."""


class RoundsConfig:
    """Settings of all rounds, and what follows from them for each."""

    def __init__(self, args: list[str]) -> None:
        parser = Parser(prog="prl rounds [options]")
        parser.add_argument("--config", action="config")
        parser.add_class_arguments(PairMaker, "pairs")
        parser.add_class_arguments(Rounds, "rounds")
        parser.add_class_arguments(Fit, "fit")
        parser.add_argument(
            "--validation", type=DataSource | None, default=None, help="Unseen prompts on which rounds are measured."
        )
        parser.add_argument(
            "--validation_reward",
            type=RewardSource | None,
            default=None,
            help="A reward that trains nothing, such as another judge; rounds are measured under it too.",
        )
        self._parser, self._config = parser, parser.parse_args(args)
        made = self._instantiate(self._config)  # a mistake in a setting is told before anything runs
        self.rounds: Rounds = made.rounds
        self.fit: Fit = made.fit
        self.validation: DataSource | None = made.validation
        if made.validation_reward is not None and self.validation is None:
            raise ValueError("validation_reward is set, but no unseen prompts to measure on; set validation.path too")
        self.policy: str = made.pairs.policy.path
        revises = self.rounds.revisions or made.pairs.revisions
        self.revision_prompt: str | None = made.pairs.revision_prompt if revises else None
        self.fit_configs = [find_config(Path(each)) for each in self.fit.configs]
        self.rows: str = made.pairs.rule.rows
        """Kind of the rows that train each round: pairs or demonstrations."""
        check_stage(made.pairs.rule, self.fit, self.rounds)
        if self.rounds.revisions and made.pairs.directions is not None:
            raise ValueError("rounds.revisions and pairs.directions are both set; leave one of them out")

    def _instantiate(self, config: Namespace) -> Any:
        instantiate = getattr(self._parser, "instantiate", None) or self._parser.instantiate_classes
        return instantiate(config)

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        settings = json.loads(self._parser.dump(self._config, format="json", skip_unset=False))
        settings.pop("config", None)
        settings["files"] = contents(self.fit_configs)
        return cast(dict[str, Any], settings)

    def resolved_fit(self, out: Path) -> dict[str, Any]:
        """Resolve the settings of the first round's `prl fit`; a mistake in them is told before anything is sampled.

        The training module of the first two rounds is built, without weights: the second may have another reference.
        """
        from lightning_modules.export import build_training_module
        from prl.cli.commands.estimate import resolved
        from prl.cli.round_fits import check_columns, check_revision_prompt

        found = []
        for number in (1, 2)[: self.rounds.number]:
            folder = out / f"round={number}"
            rows, run = folder / f"{self.rows}.jsonl", folder / "fit"
            found.append(resolved(self.fit_arguments(self.policy, number, rows, run)[1:]))
            module = build_training_module(found[-1])
        objective = getattr(module, "objective", None)
        check_revision_prompt(objective, self.revision_prompt)
        check_columns(objective, self.maker(self.policy, 1), found[0]["data"])
        return found[0]

    def maker(self, policy: str, number: int) -> PairMaker:
        """Make what makes the rows of a round."""
        config = self._config.clone()
        config.pairs.policy.path = policy
        config.pairs.seed += SEEDS * number
        return cast(PairMaker, self._instantiate(config).pairs)

    def heldout(self) -> RewardSource | None:
        """Make the held-out reward, not loaded; None without one."""
        return cast(RewardSource | None, self._instantiate(self._config).validation_reward)

    def fit_arguments(self, policy: str, number: int, rows: Path, run: Path) -> list[str]:
        """Return the arguments of a round's `prl fit`; it goes on where an earlier start was stopped."""
        from prl.checkpoints.files import holds_checkpoints

        args = ["fit", *(f"--config={each}" for each in self.fit_configs), "--run_dir", str(run)]
        args += ["--seed_everything", str(self._config.pairs.seed + number)]
        args += ["--data.init_args.train.path", str(rows), "--model.init_args.model.path", policy]
        if self.rounds.reference == "start" and number > 1:
            args += ["--model.init_args.reference.path", self.policy]
        for name, value in self.fit.options.items():
            args += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        return [*args, *(["--ckpt_path", "last"] if holds_checkpoints(run / "checkpoints") else [])]
