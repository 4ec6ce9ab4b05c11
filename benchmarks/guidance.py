"""Guidance of the sampler in the world of pictures: true quality with and without, over several seeds.

Takes a finished world at runs/images (`prl quickstart --world images`): its base model and pairs. For each seed a
reward of noisy latents (Flow-NRG) and a worse network (Self-NPO) are trained once; every row then makes 240 pictures by
the base model from the seed's noise, the same in all rows. A run that is in the results file already is not repeated.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from runs import make_missing, run_options, table

WORLD = Path("runs/images")
QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
REPEATS, STEPS = 4, 10
"""Pictures of each of the 60 prompts, and steps of the sampler."""


class Variant(NamedTuple):
    """Settings of the sampler in a row of the table."""

    guide: str = "none"
    """none; reward: by the gradient of the noisy reward; away from the base model without the prompt (null), from the
    worse network without the prompt (worse) or with it (prompted)."""
    weight: float = 0.0


VARIANTS = {
    "no guidance": Variant(),
    **{f"Flow-NRG, w = {w:g}": Variant("reward", w) for w in (0.01, 0.03, 0.1, 0.3)},
    **{
        f"{name}, w = {w:g}": Variant(kind, w)
        for w in (0.5, 1.0, 3.0)
        for name, kind in (
            ("base without prompt", "null"),
            ("Self-NPO without prompt", "worse"),
            ("Self-NPO with prompt", "prompted"),
        )
    },
}
COLUMNS = {
    **{"gold": ("gold", 3), "gain": ("gain", 3), "clarity": ("clarity", 3)},
    **{"early": ("accuracy, least noise", 3), "late": ("most noise", 3)},
}


def trained(kind: str, seed: int, out: Path, overrides: list[str]) -> Path:
    """Train the noisy reward or the worse network of a seed, once, and return its run folder."""
    from prl.cli.app import run_stage

    run = out / f"{kind}.{seed}"
    if not (run / "model").is_dir():
        configs = {"reward": ("images/reward", "methods/images/flow_nrg"), "self_npo": ("images/self_npo",)}[kind]
        args = ["fit", *(each for name in configs for each in ("--config", f"configs/{name}.yaml"))]
        args += ["--run_dir", str(run), "--overwrite", "true", "--seed_everything", str(seed)]
        args += ["--data.init_args.seed", str(seed), "--checkpoint.keep", "1", *QUIET, *overrides]
        run_stage(args)
    return run


def predictor(variant: Variant, seed: int, out: Path, overrides: list[str], parts: tuple[Any, ...]) -> Callable:
    """Put guidance around the base model's predictions.

    Args:
        variant: the row.
        seed: seed of what is trained.
        out: folder of the runs.
        overrides: settings of every run.
        parts: denoiser and network of the base model, and N prompts.
    """
    import torch

    from prl.config import ModelSource
    from prl.diffusion.denoisers import load_denoiser
    from prl.diffusion.guidance import NegativeGuided, RewardGuided
    from prl.diffusion.rewards import NoisyLatentReward
    from prl.diffusion.sampling import Prompted

    denoiser, network, prompts = parts
    told, null = (denoiser.encode(texts, torch.device("cpu")) for texts in (prompts, [""] * len(prompts)))
    base = Prompted(denoiser, network, told)
    if variant.guide == "none":
        return base
    if variant.guide == "reward":
        reward = NoisyLatentReward(str(trained("reward", seed, out, overrides) / "model"))
        process = denoiser.process
        return RewardGuided(process, base, reward.for_prompts(process, prompts), variant.weight)
    if variant.guide == "null":
        return NegativeGuided(base, Prompted(denoiser, network, null), variant.weight)
    folder = trained("self_npo", seed, out, overrides) / "model"
    _, worse = load_denoiser(ModelSource(path=str(folder)), prompt_tokens=0)
    condition = null if variant.guide == "worse" else told
    return NegativeGuided(base, Prompted(denoiser, worse.eval(), condition), variant.weight)


def sampled(variant: Variant, seed: int, out: Path, overrides: list[str]) -> dict[str, float]:
    """Make the pictures of a row, and measure them."""
    from prl.config import ModelSource
    from prl.diffusion.denoisers import load_denoiser
    from prl.diffusion.draws import normal
    from prl.diffusion.sampling import sample_latents
    from prl.quickstart.images import ALL, attributes, gold

    prompts = [scene.prompt for scene in ALL] * REPEATS
    denoiser, network = load_denoiser(ModelSource(path=str(WORLD / "base" / "model")), prompt_tokens=0)
    noise = normal([(seed, "guidance", number) for number in range(len(prompts))], denoiser.latent_shape)
    predict = predictor(variant, seed, out, overrides, (denoiser, network.eval(), prompts))
    start = perf_counter()
    images = denoiser.to_images(sample_latents(denoiser.process, predict, noise, STEPS))
    found = {"seconds": perf_counter() - start, "gold": float(gold(images, prompts).mean())}
    return {**found, **{name: float(part.double().mean()) for name, part in attributes(images, prompts).items()}}


@cache
def plain(seed: int, out: Path) -> dict[str, float]:
    """Make the pictures of a seed without guidance."""
    return sampled(Variant(), seed, out, [])


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make a row: its gain over the pictures of the same noise without guidance, and what was measured in training."""
    variant = VARIANTS[name]
    found = sampled(variant, seed, out, overrides)
    found["gain"] = found["gold"] - plain(seed, out)["gold"]
    if variant.guide == "reward":
        found |= accuracies(out / f"reward.{seed}")
    return found


def accuracies(run: Path) -> dict[str, float]:
    """Read the last accuracies of a noisy reward from its validations."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(run.rglob("events.*"))), size_guidance={"scalars": 0}).Reload()
    tags = {"accuracy": "val/accuracy", "early": "val/accuracy_by_time/clean", "late": "val/accuracy_by_time/noise"}
    return {name: events.Scalars(tag)[-1].value for name, tag in tags.items()}


def main() -> None:
    """Run what is missing, then print the table."""
    options = run_options(__doc__, "runs/image_guidance", VARIANTS)
    print(table(make_missing(options, train), "guidance", COLUMNS))


if __name__ == "__main__":
    main()
