"""The scalar reward of a Bradley-Terry model as it is, without an anchor: the reward of scalar PPO, the baseline."""

from prl.config import ModelSource, Reward
from prl.judge.bradley_terry import BradleyTerryJudge
from prl.judge.source import RewardSource, scored
from prl.types import PromptBatch, Scores


class ScalarReward(RewardSource):
    """r(x, y) of a Bradley-Terry model. Its verdict on the anchors, where there are any, only tells the win rate.

    `BradleyTerryJudge` instead rewards what the model says of the response *and* its anchor.

    Args:
        path: folder written by training or `save_pretrained`, or the id of one on the hub.
        dtype: type of the weights at inference.
        batch_size: responses per forward pass.
    """

    needs_anchors = False

    def __init__(self, path: str, dtype: str = "float32", batch_size: int = 64) -> None:
        super().__init__()
        self.judge = BradleyTerryJudge(path, dtype, batch_size)
        self.folder, self.dtype = path, dtype

    def model_source(self) -> ModelSource | None:
        """The model's folder."""
        return self.judge.model_source()

    def load(self) -> None:
        """Read weights and tokenizer; safe to call twice."""
        self.judge.load()

    def score(self, batch: PromptBatch, responses: list[str], settings: Reward) -> Scores:
        """The scalar reward of each response."""
        return scored(
            batch,
            responses,
            lambda rows, texts: self.judge.rewards([batch.prompts[row] for row in rows], texts),
        )
