"""Rollouts in which an environment answers between the policy's turns."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedTokenizerBase

from prl.data.turns import encode_reply
from prl.distributed import gathered
from prl.environments.base import PLAYED, Environment, Episode, Played
from prl.rollouts.base import PolicyHandle, Sampler
from prl.rollouts.transcripts import Transcript, continued, to_rollout
from prl.types import PromptBatch, Rollout


@dataclass
class _Talk:
    """A conversation so far."""

    episode: Episode
    transcript: Transcript = field(default_factory=Transcript)
    ends: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    is_over: bool = False


class Conversation(Sampler):
    """Let an environment answer the policy, turn by turn: reinforcement learning of agents (as in 2510.01132).

    All conversations of a batch take a turn together. What the environment says stands in the response as the chat
    template writes a user's turn; the policy reads it, and no loss, advantage or KL is on it. The policy's turns stay
    as they were sampled, also where the template would write earlier turns differently. A conversation ends when the
    environment says so, after `max_turns`, where there is no room for an answer and one more token, and with a turn
    that hits its limit; that one is not answered, and the response counts as unfinished. Validations play as well.

    `prl.rewards.EnvironmentReward` takes the rewards from the columns of the batch, where this sampler leaves them. The
    policy samples in the process that trains it.

    Args:
        environment: what answers.
        max_turns: most turns of the policy.
        max_turn_tokens: most tokens of a turn; null for as many as are left. `sampling.max_new_tokens` limits all
            tokens of a conversation behind its prompt, those of the environment included.

    Raises:
        ValueError: for settings below 1.
    """

    has_environment = True

    def __init__(self, environment: Environment, max_turns: int = 8, max_turn_tokens: int | None = None) -> None:
        for name, value in (("max_turns", max_turns), ("max_turn_tokens", max_turn_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"Conversation.{name} is {value}; expected at least 1")
        self.environment, self.max_turns, self.max_turn_tokens = environment, max_turns, max_turn_tokens

    def attach_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer whose chat template cannot say how a dialogue goes on. Raises ValueError."""
        encode_reply(tokenizer, [{"role": "user", "content": "?"}], "!")

    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Play one episode from each prompt.

        Raises:
            ValueError: for a row that the environment refuses, or a tokenizer without a chat template.
        """
        rows = batch.extras or [{}] * len(batch)
        if any(PLAYED in row for row in rows):
            raise ValueError(f"the data have a column {PLAYED!r}, which is where Conversation leaves its rewards")
        begun = zip(batch.prompts, rows, strict=True)
        talks = [_Talk(self.environment.begin(prompt, row)) for prompt, row in begun]
        for turn in range(1, self.max_turns + 1):
            playing = [number for number, talk in enumerate(talks) if not talk.is_over]
            if not any(gathered(bool(playing))):  # on all ranks or none, because ranks sample together
                break
            self._turn(batch, talks, playing, policy, is_last=turn == self.max_turns)
        played = [Played(tuple(talk.ends), tuple(talk.rewards), talk.episode.success) for talk in talks]
        extras = [{**row, PLAYED: each} for row, each in zip(rows, played, strict=True)]
        transcripts, limit = [talk.transcript for talk in talks], policy.sampling.max_new_tokens
        return to_rollout(replace(batch, extras=extras), transcripts, policy.tokenizer, limit)

    def _turn(
        self, batch: PromptBatch, talks: Sequence[_Talk], playing: list[int], policy: PolicyHandle, *, is_last: bool
    ) -> None:
        """Let the policy speak in all conversations that go on, and the environment answer."""
        most, tokenizer = policy.sampling.max_new_tokens, policy.tokenizer
        numbers = playing or [0]  # where other processes still play, with a limit of no token
        so_far = [talks[number].transcript for number in numbers]
        left = [min(self.max_turn_tokens or most, most - len(each.ids)) if playing else 0 for each in so_far]
        asked = continued(batch.select(torch.tensor(numbers)), so_far, int(tokenizer.pad_token_id))
        said = policy.generate(asked, torch.tensor(left, device=batch.prompt_ids.device))
        for place, number in enumerate(playing):
            talk, finished = talks[number], bool(said.finished[place])
            ids = said.response_ids[place][said.response_mask[place]].tolist()
            talk.transcript.add(ids, own=True, finished=finished)
            talk.is_over = True
            if not finished:
                continue
            text, reward, is_over = talk.episode.reply(said.texts[place])
            talk.ends.append(len(talk.transcript.ids) - 1)
            talk.rewards.append(float(reward))
            # What nobody would read is not written: it would be the end of the response.
            answer = [] if is_over or is_last else encode_reply(tokenizer, batch.prompts[number], text)
            if answer and len(talk.transcript.ids) + len(answer) < most:
                talk.transcript.add(answer, own=False)
                talk.is_over = False
