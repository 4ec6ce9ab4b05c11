"""Callbacks that every run has, and RunArena, which a config adds; none changes training."""

from lightning_modules.callbacks.failures import FailureReport
from lightning_modules.callbacks.predictions import PredictionFile
from lightning_modules.callbacks.progress import PhaseProgressBar, ending
from lightning_modules.callbacks.random_states import RandomStates
from lightning_modules.callbacks.resumed_events import ForgetRepeatedSteps
from lightning_modules.callbacks.run_arena import RunArena
from lightning_modules.callbacks.run_checkpoint import RunCheckpoint
from lightning_modules.callbacks.run_config import RunConfig
from lightning_modules.callbacks.run_inputs import RunInputs
from lightning_modules.callbacks.run_ledger import RunLedger

__all__ = [
    "FailureReport",
    "ForgetRepeatedSteps",
    "PhaseProgressBar",
    "PredictionFile",
    "RandomStates",
    "RunArena",
    "RunCheckpoint",
    "RunConfig",
    "RunInputs",
    "RunLedger",
    "ending",
]
