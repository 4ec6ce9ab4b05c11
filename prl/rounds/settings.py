"""Settings of `prl rounds`."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Fit:
    """The training of each round: a `prl fit` on the pairs, or on the demonstrations, that the rule makes."""

    configs: list[str]
    """Config files, as after `--config`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further settings by their dotted names, as on the command line. The round sets the policy, the reference, the
    training rows, the run folder and the seed."""

    def __post_init__(self) -> None:
        if not self.configs:
            raise ValueError(
                "fit.configs is empty; expected a config of a preference or supervised run, and overlays behind it"
            )
        own = ("run_dir", "ckpt_path", "seed_everything", "data.init_args.train.path", "model.init_args.model.path")
        if taken := [name for name in own if name in self.options]:
            raise ValueError(f"fit.options sets {taken[0]}, which each round sets by itself")


@dataclass(frozen=True)
class Rounds:
    """How rounds follow each other."""

    number: int = 3
    """Rounds in all; raise it later to go on."""
    reference: Literal["previous", "start"] = "previous"
    """Reference of a round's training: the policy that sampled the round's pairs, or that of the first round.
    Demonstrations are trained on without one."""
    extrapolation: float = 0.0
    """How far to go beyond each round's policy, along its way from the one before (2410.06293); 0 for not at all."""
    prompt_shares: int = 1
    """Deal the prompts out into so many shares, of which each round takes the next; with 1 every round has all."""
    revisions: int = 0
    """Measure responses too that each policy has revised so often, as policies of SRPO learn to, asked by
    `pairs.revision_prompt`; 0 for not at all."""

    def __post_init__(self) -> None:
        if self.revisions < 0:
            raise ValueError(f"rounds.revisions is {self.revisions}; expected 0 or more")
        if self.number < 1:
            raise ValueError(f"rounds.number is {self.number}; expected at least 1")
        if self.prompt_shares < 1:
            raise ValueError(f"rounds.prompt_shares is {self.prompt_shares}; expected at least 1")
        if self.extrapolation < 0:
            raise ValueError(f"rounds.extrapolation is {self.extrapolation}; expected 0 or more")
