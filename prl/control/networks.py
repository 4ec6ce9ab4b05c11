"""Networks of OPPO: an encoder of trajectories, and a policy that acts as a latent says."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prl.control.windows import Window, WindowEncoder


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of encoder and policy; defaults are those of OPPO's authors."""

    state_size: int
    """Numbers of a state."""
    action_size: int
    """Numbers of an action."""
    max_steps: int
    """Most steps of a trajectory: each number of a step has an embedding of its own."""
    context: int = 20
    """Steps that encoder and policy see at once (K)."""
    latent_size: int = 8
    """Numbers of a latent (z)."""
    width: int = 128
    """Width of all layers; the layers inside are four times as wide."""
    layers: int = 3
    """Transformer layers of the encoder, and of the policy."""
    encoder_heads: int = 2
    """Attention heads of the encoder."""
    decoder_heads: int = 1
    """Attention heads of the policy."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    optimum_scale: float = 2.0
    """Standard deviation of the numbers that z* begins with; latents are drawn to norm 1."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and name not in ("dropout", "optimum_scale") and value < 1:
                raise ValueError(f"networks.{name} is {value}; expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"networks.dropout is {self.dropout}; expected a number in [0, 1)")
        if self.optimum_scale < 0:
            raise ValueError(f"networks.optimum_scale is {self.optimum_scale}; expected 0 or more")
        for name in ("encoder_heads", "decoder_heads"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"networks.width is {self.width}; expected a multiple of {name}, {getattr(self, name)}"
                )
        if self.context > self.max_steps:
            raise ValueError(f"networks.context is {self.context}, but a trajectory has {self.max_steps} steps at most")

    def window_encoder(self) -> WindowEncoder:
        """Build what cuts windows of these sizes."""
        return WindowEncoder(self.state_size, self.action_size, self.max_steps, self.context)


class _Tokens(nn.Module):
    """Embeds states and actions, with the number of their step, and runs a transformer over them."""

    def __init__(self, sizes: NetworkSettings, heads: int, *, norm_first: bool) -> None:
        super().__init__()
        width = sizes.width
        self.state, self.action = nn.Linear(sizes.state_size, width), nn.Linear(sizes.action_size, width)
        self.step, self.norm = nn.Embedding(sizes.max_steps, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                *(width, heads, 4 * width, sizes.dropout, "relu"), batch_first=True, norm_first=norm_first
            )
            for _ in range(sizes.layers)
        )
        for name, weight in self.layers.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def embedded(self, states: Tensor, actions: Tensor, steps: Tensor, *more: Tensor) -> Tensor:
        """Interleave tokens of width W by step, the ones in `more` [B, T, W] first: [B, T * (2 + more), W]."""
        numbers = self.step(steps)
        tokens = [each + numbers for each in (*more, self.state(states), self.action(actions))]
        return self.norm(torch.stack(tokens, 2).flatten(1, 2))


class TrajectoryEncoder(_Tokens):
    """Reads a window both ways and says in one latent what kind of behaviour it is.

    Outputs of all states and actions are added up and mapped to the latent, as the authors do. Padding does not count;
    in their code it does.
    """

    def __init__(self, sizes: NetworkSettings) -> None:
        super().__init__(sizes, sizes.encoder_heads, norm_first=False)
        self.to_latent = nn.Linear(sizes.width, sizes.latent_size)

    def forward(self, window: Window) -> Tensor:
        """Compute the latents [B, Z] of a window with normalised states."""
        tokens = self.embedded(window.states, window.actions, window.steps)
        is_token = window.mask.repeat_interleave(2, 1)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~is_token)
        return self.to_latent((tokens * is_token[..., None]).sum(1))


class Decoder(_Tokens):
    """Acts: a decision transformer with a latent in the place of the return.

    It reads z, state and action of each step, causally. The action of a step is read at its state, so it depends on
    earlier steps and this state alone.
    """

    def __init__(self, sizes: NetworkSettings) -> None:
        super().__init__(sizes, sizes.decoder_heads, norm_first=True)
        self.latent, self.last_norm = nn.Linear(sizes.latent_size, sizes.width), nn.LayerNorm(sizes.width)
        self.to_action = nn.Linear(sizes.width, sizes.action_size)

    def forward(self, states: Tensor, actions: Tensor, steps: Tensor, latents: Tensor) -> Tensor:
        """Predict the action of each step.

        Args:
            states: normalised [B, T, S]. Padding may only stand behind.
            actions: [B, T, A]; a step's own action and later ones are not looked at.
            steps: numbers of the steps [B, T].
            latents: [B, Z].

        Returns:
            Actions in [-1, 1], [B, T, A].
        """
        latent = self.latent(latents)[:, None].expand(-1, steps.shape[1], -1)
        tokens = self.embedded(states, actions, steps, latent)
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], tokens.device, tokens.dtype)
        for layer in self.layers:
            tokens = layer(tokens, src_mask=causal, is_causal=True)
        return self.to_action(self.last_norm(tokens[:, 1::3])).tanh()


class ConditionedPolicy(nn.Module):
    """Encoder, decoder and the optimum z*, with the statistics by which states are normalised.

    Args:
        sizes: of the networks.
    """

    state_mean: Tensor
    state_scale: Tensor

    def __init__(self, sizes: NetworkSettings) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder, self.decoder = TrajectoryEncoder(sizes), Decoder(sizes)
        self.optimum = nn.Parameter(sizes.optimum_scale * torch.randn(sizes.latent_size))
        """z*, [Z]: the latent of the best behaviour."""
        self.register_buffer("state_mean", torch.zeros(sizes.state_size))
        self.register_buffer("state_scale", torch.ones(sizes.state_size))

    def normalize_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Take mean and standard deviation of the training states: [S] each."""
        self.state_mean.copy_(mean)
        self.state_scale.copy_(deviation + 1e-6)

    def _normalized(self, states: Tensor) -> Tensor:
        return (states - self.state_mean) / self.state_scale

    def encode(self, window: Window) -> Tensor:
        """Compute the latents of windows: [B, Z]."""
        return self.encoder(Window(self._normalized(window.states), window.actions, window.steps, window.mask))

    def reconstruct(self, window: Window, latents: Tensor) -> Tensor:
        """Predict the actions of windows from their latents: [B, T, A]."""
        return self.decoder(self._normalized(window.states), window.actions, window.steps, latents)

    def act(self, states: Tensor, actions: Tensor, steps: Tensor, latent: Tensor | None = None) -> Tensor:
        """Choose the next actions of episodes, as `prl.control.environment.Policy` describes.

        Args:
            states: up to now [N, T, S].
            actions: [N, T, A]; the last one is not looked at.
            steps: [N, T].
            latent: behaviour to follow [Z]; z* when None.

        Returns:
            Actions [N, A].
        """
        last = slice(-self.sizes.context, None)
        latents = (self.optimum if latent is None else latent).expand(len(states), -1)
        states = self._normalized(states[:, last])
        return self.decoder(states, actions[:, last], steps[:, last], latents)[:, -1]
