"""More faults of models of pictures: losses and steps, clips, judges that say Yes or No, and reports on rows."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/diffusion/denoisers/wan.py": (
        "u.denoisers",
        (
            ("latents-keep-their-mean", "return (latents - mean) / std", "return latents / std"),
            ("clips-without-their-mean", "(latents * std + mean)", "(latents * std)"),
            ("frames-as-their-latents", "latents = (frames - 1) // self.frames_scale + 1", "latents = frames"),
        ),
    ),
    "prl/diffusion/denoisers/base.py": (
        "u.denoisers",
        (
            ("a-solver-for-flows-is-a-ddpm", 'if getattr(scheduler.config, "use_flow_sigmas", False):', "if False:"),
            ("times-of-a-flow-are-not-scaled", "told = (time * self.time_scale).float()", "told = time.float()"),
        ),
    ),
    "prl/diffusion/rewards/vision_language.py": (
        "u.yes_no",
        (
            ("no-against-yes", "found[:, self.yes] - found[:, self.no]", "found[:, self.no] - found[:, self.yes]"),
            ("padding-is-read", 'given["attention_mask"].cumsum(1).argmax(1)', 'given["input_ids"].ne(-1).sum(1) - 1'),
            ("tokens-tell-themselves", "ends[:, None] - lengths + places)", "ends[:, None] - lengths + 1 + places)"),
        ),
    ),
    "prl/diffusion/rewards/yes_no.py": (
        "u.yes_no",
        (
            ("reasons-are-added-up", "(1 - alpha) * others / count.clamp(min=1)", "(1 - alpha) * others"),
            (
                "neighbours-alone-are-compared",
                "in combinations(figures, 2)",
                "in zip(figures, figures[1:], strict=False)",
            ),
            ("prompt-is-not-asked", 'question.replace("{prompt}", prompt)', "question"),
        ),
    ),
    "lightning_modules/yes_no_judge.py": (
        "i.yes_no_judge",
        (
            (
                "question-of-the-run-is-not-kept",
                "self.asking.save(folder, self.question)",
                'self.asking.save(folder, "?")',
            ),
        ),
    ),
    "lightning_modules/trajectory_policy.py": (
        "i.image_runs",
        (
            (
                "size-is-not-read",
                "self.denoiser.latents_of(settings.size), self.b",
                "self.denoiser.latent_shape, self.b",
            ),
            (
                "old-policy-is-scored-later",
                "self.takes_one_step:\n                old[rows]",
                "False:\n                old[rows]",
            ),
        ),
    ),
    "lightning_modules/denoising_preference.py": (
        "u.denoising_preference",
        (
            ("errors-are-not-halved", "-0.5 * states.errors", "-1.0 * states.errors"),
            ("times-are-never-shared", "shared if draws.share_time else own", "own"),
            ("noise-is-always-shared", "shared if draws.share_noise else own", "shared"),
            ("reference-keeps-its-adapters", "with self.as_reference():", "if True:"),
        ),
    ),
    "prl/diffusion/rectified_flow.py": (
        "u.processes u.trajectories",
        (
            ("sde-without-its-drift", "of_x = as_rows(1 + variance * passed / (2 * now), noisy)", "of_x = 1.0"),
            ("cps-keeps-all-noise", "(then.square() - std.square()).clamp(min=0).sqrt()", "then"),
        ),
    ),
    "prl/diffusion/rewards/win_rate.py": (
        "i.image_reward",
        (
            ("pairs-cross-prompts", "alike = (group[:, None] == group) & ~", "alike = ~"),
            ("one-order-is-asked", "if self.both_orders else -forth", "if False else -forth"),
        ),
    ),
    "prl/diffusion/rewards/adversarial.py": (
        "u.rewards",
        (("discriminator-learns-backwards", "softplus(made - real)", "softplus(real - made)"),),
    ),
    "prl/evaluation/picture_summary.py": (
        "u.picture_summary",
        (
            (
                "the-darker-wins",
                "np.array(row[0][2]) - np.array(row[1][2])",
                "np.array(row[1][2]) - np.array(row[0][2])",
            ),
            ("identical-by-name", "row[0][1] == row[1][1] for row in seen", "row[0][0] != row[1][0] for row in seen"),
        ),
    ),
}
