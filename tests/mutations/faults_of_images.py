"""Faults of models of pictures: file -> test files, and each fault with its old and its new text."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "lightning_modules/image_reward.py": (
        "u.image_reward_noise",
        (
            ("each-picture-has-its-own-noise", "torch.cat([noise, noise])", "torch.cat([noise, -noise])"),
            ("reward-is-not-told-the-time", "process.share(both)).chunk", "0 * process.share(both)).chunk"),
        ),
    ),
    "lightning_modules/self_npo.py": (
        "u.self_npo",
        (
            (
                "teacher-reads-the-prompt",
                "Prompted(denoiser, self.teacher, null)",
                "Prompted(denoiser, self.teacher, condition)",
            ),
            ("network-is-its-own-teacher", "1 - self.teacher_decay)", "1.0)"),
            ("teacher-is-not-saved", ' - {f"teacher.{name}" for name, _ in learning}', ""),
        ),
    ),
    "prl/diffusion/guides.py": (
        "u.guides",
        (("worse-network-always-reads-the-prompt", "prompts if self.prompted else", "prompts if True else"),),
    ),
    "prl/diffusion/rewards/conv_scorer.py": (
        "u.noisy_latents",
        (
            (
                "time-is-not-read",
                "torch.cat([angles.sin(), angles.cos()], 1)",
                "0 * torch.cat([angles.sin(), angles.cos()], 1)",
            ),
        ),
    ),
    "prl/diffusion/truncated.py": (
        "u.truncated",
        (
            (
                "all-rows-take-all-steps",
                "as_rows(number < counts, latents).bool()",
                "as_rows(counts > 0, latents).bool()",
            ),
            (
                "renoised-from-the-estimate",
                "process.renoise(found.latents, noise",
                "process.renoise(found.clean, noise",
            ),
        ),
    ),
}
