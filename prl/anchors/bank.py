"""Anchor bank: anchors that are replaced once the policy beats them with confidence."""

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from prl.anchors.base import AnchorSource, Policies, repeated
from prl.data.rows.records import prompt_key
from prl.distributed import gathered
from prl.types import Conversation, PromptBatch, Rollout, Scores

_EARLIER = {"rival": "challenger", "rival_prob": "challenger_prob"}
"""Names in earlier checkpoints -> names now."""


@dataclass
class Anchor:
    """Anchor of one prompt, with the policy's wins against it."""

    text: str
    version: int = 0
    wins: float = 0.0
    """Rollouts that beat the anchor; a tie counts one half."""
    num_judged: int = 0
    challenger: str = ""
    """The rollout with the highest win probability against the anchor."""
    challenger_prob: float = 0.0


def lower_bound(wins: float, number: int, z: float = 1.645) -> float:
    """Compute the one-sided 95 % lower confidence bound of a share (Wilson 1927); 0 without observations."""
    if number == 0:
        return 0.0
    share, ratio = wins / number, z * z / number
    centre = share + ratio / 2
    return (centre - z * sqrt(share * (1 - share) / number + ratio / (4 * number))) / (1 + ratio)


class AnchorBank(AnchorSource):
    """One anchor per prompt: the anchor of the data, or a sample of the reference where a row has none.

    When the lower confidence bound of the win rate against an anchor passes `refresh_above`, the rollout with the
    highest win probability replaces the anchor, if the held-out judge (without one, the judge) prefers it too. So win
    probabilities stay where the sigmoid is steep instead of saturating near 1.

    Args:
        refresh_above: win rate whose lower confidence bound must be passed.
        min_judged: rollouts that must be judged against an anchor before it can be replaced.
    """

    def __init__(self, refresh_above: float = 0.5, min_judged: int = 4) -> None:
        if not 0 < refresh_above < 1:
            raise ValueError(f"anchors.refresh_above is {refresh_above}; expected a number between 0 and 1")
        if min_judged < 1:
            raise ValueError(f"anchors.min_judged is {min_judged}; expected at least 1")
        self.refresh_above, self.min_judged = refresh_above, min_judged
        self.bank: dict[str, Anchor] = {}
        self._first: dict[str, Anchor] = {}
        self._events: list[dict[str, Any]] = []

    def anchors_for(self, batch: PromptBatch, responses: list[str], policies: Policies) -> list[tuple[str, ...]]:
        """Look up the anchor of each prompt; a new prompt gets its first anchor."""
        # First anchors enter the bank with their verdicts: a run that stops in between begins the batch again.
        self._first = {}
        keys = [prompt_key(prompt) for prompt in batch.prompts]
        starts = [anchors[0] if anchors else None for anchors in batch.anchors]
        bare = any(key not in self.bank and start is None for key, start in zip(keys, starts, strict=True))
        if any(gathered(bare)):  # on all ranks or none, because ranks sample together
            drawn = policies.reference_responses(batch)
            starts = [text if start is None else start for start, text in zip(starts, drawn, strict=True)]
        for found in gathered(dict(zip(keys, starts, strict=True))):
            for key, text in found.items():
                self._first.setdefault(key, Anchor(text))
        return repeated([((self.bank.get(key) or self._first[key]).text,) for key in keys], len(responses))

    def update(self, rollout: Rollout, scores: Scores, policies: Policies) -> dict[str, float]:
        """Count wins and replace beaten anchors. Every rank reads all verdicts, so that banks stay equal."""
        self._events = []
        self.bank |= {key: anchor for key, anchor in self._first.items() if key not in self.bank}
        own = []
        if scores.verdict is not None and scores.response_index is not None:
            probabilities = scores.verdict.win_prob.tolist()
            for row, probability in zip(scores.response_index.tolist(), probabilities, strict=True):
                if probability == probability:  # NaN where judging failed
                    own.append((rollout.batch.prompts[row], rollout.texts[row].strip(), probability))
        prompts: dict[str, Conversation] = {}
        for prompt, text, probability in (entry for entries in gathered(own) for entry in entries):
            key = prompt_key(prompt)
            prompts[key] = prompt
            anchor = self.bank[key]
            anchor.wins += 0.5 if probability == 0.5 else float(probability > 0.5)
            anchor.num_judged += 1
            if probability > anchor.challenger_prob:
                anchor.challenger, anchor.challenger_prob = text, probability
        beaten = [key for key in prompts if self._is_beaten(self.bank[key])]
        self._replace({key: prompts[key] for key in beaten}, policies)
        return self._numbers()

    def events(self) -> list[dict[str, Any]]:
        """Return one event for each anchor that could be replaced, with the figures of both judges."""
        return self._events

    def _is_beaten(self, anchor: Anchor) -> bool:
        enough = anchor.num_judged >= self.min_judged
        return (
            enough and lower_bound(anchor.wins, anchor.num_judged) > self.refresh_above and anchor.challenger_prob > 0.5
        )

    def _replace(self, beaten: dict[str, Conversation], policies: Policies) -> None:
        """Ask for a second opinion on each challenger, and put the preferred ones into the bank."""
        anchors = [self.bank[key] for key in beaten]
        if not anchors:
            return
        challengers, old = [anchor.challenger for anchor in anchors], [anchor.text for anchor in anchors]
        own = policies.second_opinion(list(beaten.values()), challengers, old).win_prob.tolist()
        confirmed = gathered(own)[0]  # one verdict for all ranks, even from a judge that is not deterministic
        for (key, prompt), anchor, probability in zip(beaten.items(), anchors, confirmed, strict=True):
            accepted = probability > 0.5
            self._events.append(
                {
                    "prompt": list(prompt),
                    "version": anchor.version,
                    "win_rate": anchor.wins / anchor.num_judged,
                    "num_judged": anchor.num_judged,
                    "confirmed_win_prob": probability,
                    "replaced": accepted,
                    "anchor": anchor.text,
                    "rival": anchor.challenger,
                }
            )
            # Refused challengers are dropped too, or the same one would be judged again at every visit.
            text = anchor.challenger if accepted else anchor.text
            self.bank[key] = Anchor(text, anchor.version + accepted)

    def _numbers(self) -> dict[str, float]:
        versions = [anchor.version for anchor in self.bank.values()]
        numbers = {
            "anchors/mean_version": sum(versions) / max(len(versions), 1),
            "anchors/replaced": float(sum(event["replaced"] for event in self._events)),
            "anchors/refused": float(sum(not event["replaced"] for event in self._events)),
        }
        replaced = [event for event in self._events if event["replaced"]]
        if replaced:
            numbers["anchors/beaten_win_rate"] = sum(event["win_rate"] for event in replaced) / len(replaced)
            numbers["anchors/confirmed_win_prob"] = sum(e["confirmed_win_prob"] for e in replaced) / len(replaced)
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """Return every anchor with its counts."""
        return {key: asdict(anchor) for key, anchor in self.bank.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with saved anchors."""
        self.bank = {
            key: Anchor(**{_EARLIER.get(name, name): value for name, value in anchor.items()})
            for key, anchor in state.items()
        }
