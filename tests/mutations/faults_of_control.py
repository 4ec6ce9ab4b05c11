"""Faults of policies for control: OPPO's losses, networks and data."""

_LOSSES = "u.control_losses u.accumulation"

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/control/oppo.py": (
        f"{_LOSSES} i.oppo",
        (
            ("encoder-moves-z", "triplet_loss(policy.optimum.detach(), chosen, rejected, margin)", "triplet_loss(policy.optimum, chosen, rejected, margin)"),
            ("z-moves-the-encoder", "triplet_loss(policy.optimum, chosen.detach(), rejected.detach(), margin)", "triplet_loss(policy.optimum, chosen, rejected, margin)"),
            ("z-never-learns", 'of_networks + rows["optimum"].sum() / totals["pairs"]', "of_networks"),
            ("only-the-chosen-norm", "norm_loss(chosen) + norm_loss(rejected)", "norm_loss(chosen)"),
            ("preference-without-its-weight", 'weights.preference * parts["preference"]', 'parts["preference"]'),
            ("norm-without-its-weight", 'weights.norm * parts["norm"]', 'parts["norm"]'),
        ),
    ),
    "prl/control/losses.py": (
        _LOSSES,
        (
            ("rejected-is-preferred", "triplet_margin_loss(anchors, chosen, rejected,", "triplet_margin_loss(anchors, rejected, chosen,"),
            ("margin-is-always-1", "margin=margin, reduction", "margin=1.0, reduction"),
            ("padding-is-reconstructed", ".mean(-1) * mask).sum(1)", ".mean(-1)).sum(1)"),
        ),
    ),
    "prl/control/networks.py": (
        "u.control_networks",
        (
            ("policy-sees-the-future", "tokens = layer(tokens, src_mask=causal, is_causal=True)", "tokens = layer(tokens)"),
            ("action-read-at-the-action", "tokens[:, 1::3]", "tokens[:, 2::3]"),
            ("encoder-attends-to-padding", "layer(tokens, src_key_padding_mask=~is_token)", "layer(tokens)"),
            ("encoder-adds-up-padding", "(tokens * is_token[..., None]).sum(1)", "tokens.sum(1)"),
            ("states-as-they-are", "return (states - self.state_mean) / self.state_scale", "return states"),
            ("acts-by-zero", "(self.optimum if latent is None else latent)", "(torch.zeros_like(self.optimum) if latent is None else latent)"),
            ("z-begins-wide", "nn.Parameter(sizes.optimum_scale * torch", "nn.Parameter(2.0 * torch"),
        ),
    ),
    "prl/control/point_mass.py": (
        "u.control_data",
        (
            ("worse-segments-are-chosen", "is_first = (first > second)", "is_first = (first < second)"),
            ("ties-are-labelled", "told = first != second", "told = first == first"),
            ("walls-are-open", "places = free.clamp(-1, 1)", "places = free"),
        ),
    ),
    "prl/control/trajectories.py": (
        "u.control_data",
        (
            ("actions-out-of-reach", "(abs(data.actions) > 1) & data.is_step[..., None]", "(abs(data.actions) > 9) & data.is_step[..., None]"),
            ("numbers-that-are-none", "~np.isfinite(array) & data.is_step[..., None]", "np.isinf(array) & data.is_step[..., None] & False"),
            ("padding-in-the-statistics", "self.states[self.is_step].astype", "self.states.reshape(-1, self.states.shape[2]).astype"),
        ),
    ),
    "lightning_modules/oppo.py": (
        "i.oppo u.accumulation",
        (
            ("statistics-are-not-taken", "self.model.normalize_by(*map(torch.from_numpy, data.statistics()))", "pass"),
            ("means-of-one-batch", "totals, num_batches = self.whole_step(batch)", "totals, num_batches = self.step_totals(batch), 1"),
            ("right-is-wrong", '(rows["distance"] < 0).float()', '(rows["distance"] > 0).float()'),
            ("z-has-no-rate-of-its-own", "learning_rate=self.optimum_learning_rate)", "learning_rate=self.optimization.learning_rate)"),
            ("gradients-clipped-together", "for part in (self.model.encoder, self.model.decoder):", "for part in (self.model,):"),
        ),
    ),
}  # fmt: skip
