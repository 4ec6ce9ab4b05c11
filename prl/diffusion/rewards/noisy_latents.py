"""Flow-NRG's reward: scores of noisy latents, by whose gradient a sampler is guided."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from prl.diffusion.base import NoiseProcess
from prl.diffusion.rewards.conv_scorer import is_conv_scorer, load_conv_scorer
from prl.diffusion.rewards.learned import weights_of_heads
from prl.models.loading import freeze


class NoisyLatentReward(nn.Module):
    """Scores of a reward model that `ImageRewardModule` trained with its setting `noisy` (2501.13918, section 4.3).

    They are differentiable in the latents, and `for_prompts` gives what `RewardGuided` reads. Guidance is exact with
    the logarithm of the mean of exp(r) over the clean pictures that a noisy one may come from; Bradley-Terry on noisy
    pairs learns another number, so the weight of the guidance is found by trial.

    Args:
        path: folder of the reward model.
        weights: weight of each head by its name; all count 1 when null. Chosen anew for each use, without training.

    Raises:
        ValueError: for a folder without such a model, or a weight of a head that there is not.
    """

    head_weights: Tensor

    def __init__(self, path: str, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        folder = Path(path).expanduser()
        scorer = load_conv_scorer(folder) if is_conv_scorer(folder) else None
        if scorer is None or not scorer.time_input:
            raise ValueError(
                f"{path} holds no reward model of noisy latents; train one with ImageRewardModule's setting noisy "
                "(configs/methods/images/flow_nrg.yaml)"
            )
        self.path, self.scorer = path, freeze(scorer)
        found = weights_of_heads(type(self).__name__, path, scorer.names, weights)
        self.register_buffer("head_weights", found, persistent=False)

    def score(self, latents: Tensor, prompts: Sequence[str], share: Tensor) -> Tensor:
        """Score noisy latents, differentiably: [N] float32.

        Args:
            latents: [N, ...] noisy latents.
            prompts: N texts.
            share: [N] shares of the way from clean (0) to noise (1), `NoiseProcess.share` of their times.
        """
        return self.scorer(latents.float(), prompts, share) @ self.head_weights

    def for_prompts(self, process: NoiseProcess, prompts: Sequence[str]) -> Callable[[Tensor, Tensor], Tensor]:
        """Bind prompts: rewards [N] of noisy latents [N, ...] at times [N] of a process."""
        return lambda noisy, time: self.score(noisy, prompts, process.share(time))
