"""OPPO and behaviour cloning on a small control task: returns in the environment, several seeds of each.

Every seed has data, weights and an order of its own. OPPO is `prl fit --config configs/control/oppo.yaml`. Behaviour
cloning is its decoder with a latent of zeros, in as many steps of as many pairs with the same optimizer: on both sides
of each pair, or on the preferred one. All are measured in the same episodes. A run that is in the results file already
is not repeated.
"""

from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_modules import optimizers
from lightning_modules.oppo import OPPOModule
from prl.cli.app import run_stage
from prl.cli.commands.control import main as make_data
from prl.config import Optimization
from prl.control import ConditionedPolicy, NetworkSettings, PointMass, WindowEncoder, load_policy, read_data, returns
from prl.control.environment import Policy, expert_policy, normalized, random_policy
from prl.control.losses import reconstruction_loss
from prl.control.windows import SIDES, Window
from prl.data import LengthGroupedBatchSampler
from runs import missing_runs, run_options, table

CONFIG = Path(__file__).parents[1] / "configs" / "control" / "oppo.yaml"
EPISODES, EPISODE_SEED = 200, 1000
OPPO = {
    "OPPO": (),
    "OPPO, z* begun as the authors do": ("--model.init_args.networks.optimum_scale", "2"),
    "OPPO, preference weight 0": ("--model.init_args.weights.preference", "0"),
}
CLONED = {"behaviour cloning, all": SIDES, "behaviour cloning, preferred half": SIDES[:1]}
ENDS = ("random policy", "expert")
COLUMNS = {
    "normalized_return": ("normalised return", 1),
    "return": ("return", 2),
    "unit": ("normalised return by z*/‖z*‖", 1),
    "optimum_norm": ("‖z*‖", 2),
    "preference_accuracy": ("preference accuracy", 3),
}


def measure(policy: Policy) -> dict[str, float]:
    """Play the episodes of all variants."""
    environment = PointMass()
    found = returns(environment, policy, EPISODES, EPISODE_SEED)
    return {
        "normalized_return": normalized(environment, found, EPISODE_SEED),
        "return": float(found.mean()),
    }


def learn(folder: Path, data: Path, seed: int, overrides: list[str]) -> dict[str, float]:
    """Run OPPO through the command line, and measure the policy that it leaves."""
    args = ["fit", "--config", str(CONFIG), "--run_dir", str(folder), "--seed_everything", str(seed)]
    for split in ("train", "validation"):
        args += [f"--data.init_args.{split}.path", str(data / f"{split}.npz")]
    args += ["--data.init_args.seed", str(seed), "--overwrite", "true", "--trainer.enable_progress_bar", "false"]
    cli = run_stage([*args, *overrides])
    policy = load_policy(folder / "model")
    latent = torch.nn.functional.normalize(policy.optimum.detach(), dim=0)
    unit = measure(lambda *past: policy.act(*past, latent=latent))
    return {
        **measure(policy.act),
        "unit": unit["normalized_return"],
        "optimum_norm": float(policy.optimum.detach().norm()),
        "preference_accuracy": float(cli.trainer.callback_metrics["val/preference_accuracy"]),
    }


def clone(sides: tuple[str, ...], data: Path, seed: int) -> dict[str, float]:
    """Train a decoder to imitate sides of the pairs, with the settings of the config, and measure it."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings, trainer = config["model"]["init_args"], config["trainer"]
    optimization, pairs = Optimization(**settings["optimization"]), read_data(data / "train.npz")
    torch.manual_seed(seed)
    policy = ConditionedPolicy(NetworkSettings(**settings["networks"]))
    policy.normalize_by(*map(torch.from_numpy, pairs.statistics()))
    encoder: WindowEncoder = OPPOModule(policy.sizes).build_encoder()
    groups = optimizers.parameter_group(policy.decoder.parameters(), optimization, "decoder")
    optimizer = optimizers.build_optimizer(groups, optimization, "32-true")
    schedule = optimizers.build_schedule(optimizer, optimization, trainer["max_steps"])
    size = config["data"]["init_args"]["batch_size"]
    order = LengthGroupedBatchSampler(
        [1] * len(pairs.chosen), size, shuffle=True, seed=seed, drop_last=True, completed_batches=lambda: 0
    )
    for _, numbers in zip(range(trainer["max_steps"]), order, strict=False):
        batch = encoder.collate([encoder.encode(pairs, number) for number in numbers])
        loss = torch.zeros(())
        for side in sides:
            window = Window.of(batch, side)
            predicted = policy.reconstruct(window, torch.zeros(size, policy.sizes.latent_size))
            loss = loss + reconstruction_loss(predicted, window.actions, window.mask).sum() / window.mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.decoder.parameters(), trainer["gradient_clip_val"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    policy.eval()
    zero = torch.zeros(policy.sizes.latent_size)
    return measure(lambda *past: policy.act(*past, latent=zero))


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/control/benchmark", (*OPPO, *CLONED, *ENDS))

    def one(name: str, seed: int) -> dict[str, Any]:
        data = options.out / f"data.{seed}"
        if not (data / "validation.npz").exists():
            make_data(["--out", str(data), "--seed", str(seed)])
        if name in OPPO:
            folder = options.out / f"{list(OPPO).index(name)}.{seed}"
            return learn(folder, data, seed, [*OPPO[name], *options.overrides])
        if name in CLONED:
            return clone(CLONED[name], data, seed)
        return measure(expert_policy(PointMass()) if name == "expert" else random_policy(PointMass(), seed))

    rows = missing_runs(options.out / "results.jsonl", options.wanted, one)
    print(table(rows, "policy", COLUMNS))


if __name__ == "__main__":
    main()
