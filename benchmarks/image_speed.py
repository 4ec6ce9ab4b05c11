"""Time of a step of Diffusion-DPO beside a plain loop on the same model and pictures, as a ratio.

The plain loop is what the example script of diffusers does in a step: one forward pass of the network over both
pictures of each pair at one time and noise, one of the reference without gradients, the loss, backward, clipping,
AdamW. Steps of both alternate, so that whatever else the machine does slows both alike.

    python benchmarks/image_speed.py --model runs/images/base/model
"""

import argparse
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from lightning_modules import DenoisingPreferenceModule
from prl.config import ModelSource
from prl.diffusion.denoisers import load_denoiser
from prl.objectives.preference import DPO

BETA, CLIP = 200.0, 1.0


class PlainLoop:
    """A step of Diffusion-DPO on a flow or a DDPM, without Lightning and without prl's modules.

    Args:
        denoiser: frozen parts of the pipeline.
        network: the network that learns.
        reference: its frozen copy.
        is_flow: whether it predicts velocities.
    """

    def __init__(self, denoiser: Any, network: Any, reference: Any, is_flow: bool) -> None:
        self.denoiser, self.network, self.reference, self.is_flow = denoiser, network, reference, is_flow
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
        self.alphas = None if is_flow else denoiser.pipeline.scheduler.alphas_cumprod

    def step(self, batch: dict[str, Any]) -> float:
        """Take one step, and return the loss."""
        both = torch.cat([batch["chosen"], batch["rejected"]])
        latents = self.denoiser.to_latents(both)
        count = len(batch["chosen"])
        noise = torch.randn_like(latents[:count]).repeat(2, 1, 1, 1)
        if self.alphas is None:
            time = torch.rand(count).repeat(2)
            t = time.view(-1, 1, 1, 1)
            noisy, target = (1 - t) * latents + t * noise, noise - latents
        else:
            time = torch.randint(len(self.alphas), (count,)).repeat(2)
            abar = self.alphas[time].view(-1, 1, 1, 1)
            noisy, target = abar.sqrt() * latents + (1 - abar).sqrt() * noise, noise
        condition = self.denoiser.encode(batch["prompts"], torch.device("cpu"))
        condition = {name: torch.cat([each, each]) for name, each in condition.items()}
        predicted = self.denoiser.predict(self.network, noisy, time, condition)
        errors = (predicted - target).square().mean((1, 2, 3))
        with torch.no_grad():
            of_reference = (
                (self.denoiser.predict(self.reference, noisy, time, condition) - target).square().mean((1, 2, 3))
            )
        chosen, rejected = (errors - of_reference).chunk(2)
        loss = -logsigmoid(-0.5 * BETA * (chosen - rejected)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


class OwnStep:
    """The same step by `DenoisingPreferenceModule`."""

    def __init__(self, source: ModelSource, prompt_tokens: int) -> None:
        self.module: Any = DenoisingPreferenceModule(source, DPO(BETA), prompt_tokens=prompt_tokens)
        self.module.configure_model()
        self.done = 0
        self.module.batches_done = lambda: self.done
        self.module.train()
        self.optimizer = torch.optim.AdamW(self.module.model.parameters(), lr=1e-6)

    def step(self, batch: dict[str, Any]) -> float:
        """Take one step, and return the loss."""
        loss = self.module.objective.loss(self.module.score(batch)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return float(loss.detach())


def main() -> None:
    """Alternate the two, and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", nargs="+", default=["a red circle on the left", "a blue square at the top"])
    parser.add_argument("--prompt-tokens", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    source = ModelSource(path=str(options.model))
    denoiser, network = load_denoiser(source, options.prompt_tokens)
    reference = load_denoiser(source, options.prompt_tokens)[1].requires_grad_(False)
    plain = PlainLoop(denoiser, network, reference, hasattr(denoiser.process, "shift"))
    own = OwnStep(source, options.prompt_tokens)
    images = torch.rand(2, options.pairs, *denoiser.image_shape) * 2 - 1
    prompts = (options.prompts * options.pairs)[: options.pairs]
    batch = {"prompts": prompts, "chosen": images[0], "rejected": images[1], "index": torch.arange(options.pairs)}
    batch |= {"targets": torch.ones(options.pairs), "weights": torch.ones(options.pairs)}
    seconds: dict[str, list[float]] = {"plain": [], "prl": []}
    for number in range(options.steps + 5):
        for name, each in (("plain", plain), ("prl", own)):
            start = perf_counter()
            each.step(batch)  # type: ignore[attr-defined]
            if number >= 5:
                seconds[name].append(perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = [ours / theirs for ours, theirs in zip(seconds["prl"], seconds["plain"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"median seconds of a step: plain {medians['plain']:.4f}, prl {medians['prl']:.4f}")
    print(f"ratio prl / plain: median {middle:.3f}, middle half {low:.3f} to {high:.3f}, {len(ratios)} steps")


if __name__ == "__main__":
    main()
