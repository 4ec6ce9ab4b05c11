"""A whole PPO run ends with the same weights whichever kernel computed its advantages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from prl import ops
from tests.integration.runs import CONFIGS, Home

SETTINGS = (
    *("--model.init_args.iterations", "6", "--model.init_args.advantage.init_args.critic_lambda", "1.0"),
    *("--model.init_args.advantage.init_args.length_adaptive_alpha", "0.5"),
)


def run_with(kernels: str, home: Home, run: Path) -> dict:
    command = [sys.executable, "-m", "prl", *home.arguments("pairwise_ppo", run, *SETTINGS)]
    environment = os.environ | {"PRL_KERNELS": kernels, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=CONFIGS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.slow
def test_torch_and_cpp_train_alike(home: Home, tmp_path: Path) -> None:
    if not ops.status()["cpp"].active:
        pytest.skip(f"the C++ kernel is not active: {ops.status()['cpp'].reason}")
    plain, compiled = (run_with(name, home, tmp_path / name) for name in ("torch", "cpp"))
    start = load_file(home.policy / "model.safetensors")
    assert max((plain[name] - start[name]).abs().max().item() for name in start) > 1e-3
    # Advantages and returns are equal to the last bit. The sums for whitening are float64 sums in another order, 1e-16
    # apart, which moves a whitened advantage by one float32 spacing at most, and only on the edge of rounding.
    assert max((plain[name] - compiled[name]).abs().max().item() for name in start) < 1e-6
