"""Calibration of a judge on labelled pairs: temperature and position offset, and a folder that adds them to a model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prl.evaluation.bootstrap import Interval, bootstrap_mean
from prl.evaluation.judge.calibration import fit_temperature, is_at_an_end
from prl.evaluation.judge.report import JudgedPairs
from prl.judge.base import PairwiseJudge
from prl.judge.bradley_terry import BradleyTerryJudge
from prl.judge.files import judge_settings
from prl.judge.generative import GenerativeJudge
from prl.models.location import is_hub_id, linked_model
from prl.rewards.folder import JUDGE_FILE, TEMPLATE_FILE
from prl.system.outputs import write_text, writing_folder
from prl.verdict import Verdict


@dataclass(frozen=True)
class Calibration:
    """What is added to a judge: margins become (z - position_offset) / temperature."""

    temperature: Interval
    """T that minimises the negative log-likelihood of the debiased win probability; above 1 it was overconfident."""
    position_offset: Interval
    """Mean of (z(a, b) + z(b, a)) / 2, the log-odds that the first place is worth; 0 without a place."""

    def apply(self, verdict: Verdict) -> Verdict:
        """Calibrate verdicts of the judge as it was."""
        offset, temperature = self.position_offset.mean, self.temperature.mean
        return Verdict((verdict.margin_ab - offset) / temperature, (verdict.margin_ba - offset) / temperature)


def fit_calibration(judged: JudgedPairs) -> Calibration:
    """Fit temperature and position offset, each with its 95 % interval over prompts.

    The offset cancels where both orders are averaged, so it leaves accuracy and the debiased probability as they are.
    It counts where one order is read alone, in the order gap and in the flip rate.
    """
    verdict = judged.verdict
    halves = ((verdict.margin_ab + verdict.margin_ba) / 2).double().tolist()
    return Calibration(
        fit_temperature(verdict.win_logit, judged.targets, judged.prompts), bootstrap_mean(halves, judged.prompts)
    )


def check_can_calibrate(judge: PairwiseJudge) -> None:
    """Refuse a judge whose settings have no place for a calibration. Raises ValueError."""
    if not isinstance(judge, GenerativeJudge | BradleyTerryJudge):
        raise ValueError(
            f"{type(judge).__name__} has no temperature to calibrate; generative and Bradley-Terry judges have one"
        )


def check_fit(calibration: Calibration) -> None:
    """Refuse a temperature at an end of its range: a better one lies beyond it. Raises ValueError."""
    temperature = calibration.temperature.mean
    if not is_at_an_end(temperature):
        return
    if temperature < 1:
        cause = (
            "the judge is right on all of these pairs, or its margins are next to nothing; give more or harder pairs"
        )
    else:
        cause = "its margins say no more than a coin on these pairs; give more or other pairs, or take another judge"
    raise ValueError(f"no temperature fits, the search ended at {temperature:g}: {cause}. Nothing was written")


def write_calibrated(judge: PairwiseJudge, path: str, folder: Path, calibration: Calibration) -> None:
    """Write a judge's folder that holds settings alone and names the model that they are for.

    Args:
        judge: the judge as it was measured, loaded.
        path: its folder, .gguf file or hub id.
        folder: folder to write.
        calibration: what was fitted to its margins.

    Raises:
        ValueError: for a judge of a kind that has no temperature, or a fit at an end of its range.
    """
    check_can_calibrate(judge)
    check_fit(calibration)
    with writing_folder(folder) as partial:
        settings = {"model": _model_of(path), **_settings(judge, calibration)}
        write_text(partial / JUDGE_FILE, json.dumps(settings, indent=2) + "\n")
        if isinstance(judge, GenerativeJudge) and judge.encoder is not None:
            write_text(partial / TEMPLATE_FILE, judge.encoder.template.text)


def _model_of(path: str) -> str:
    """Name the model of a judge so that it is found from any folder."""
    model = linked_model(path) or path
    return model if is_hub_id(model) else str(Path(model).expanduser().resolve())


def _settings(judge: PairwiseJudge, calibration: Calibration) -> dict[str, Any]:
    temperature, offset = calibration.temperature.mean, calibration.position_offset.mean
    if isinstance(judge, GenerativeJudge):
        assert judge.encoder is not None, "call load() first"
        # The margins that were fitted had the judge's own calibration in them.
        total = judge.position_offset + judge.temperature * offset
        return judge_settings(judge.encoder, judge.temperature * temperature, total, judge.reasoning)
    assert isinstance(judge, BradleyTerryJudge)
    assert judge.encoder is not None, "call load() first"
    return {
        "kind": "bradley_terry",
        "max_length": judge.encoder.max_length,
        "head_weights": [weight / temperature for weight in judge.head_weights],
        **({"head_names": list(judge.head_names)} if judge.head_names else {}),
    }
