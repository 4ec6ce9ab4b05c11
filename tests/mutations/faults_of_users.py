"""Faults of models of pictures that know users."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/diffusion/user_attention.py": (
        "u.user_attention",
        (
            ("users-count-the-bias-of-the-projection-again", "- project(torch.zeros_like(own[:1, :1]))", ""),
            (
                "keys-of-users-are-their-values",
                "self.to_k(tokens), self.to_v(tokens)",
                "self.to_v(tokens), self.to_v(tokens)",
            ),
            ("values-of-users-start-at-random", "        nn.init.zeros_(self.to_v.weight)\n", ""),
            ("the-base-learns-beside-users", "    network.requires_grad_(False)\n", ""),
            ("users-stay-in-the-base-that-is-written", "set_processor(part.base)", "set_processor(part)"),
        ),
    ),
    "prl/diffusion/users.py": (
        "u.users",
        (
            ("rejected-pictures-are-liked", "return scaled(chosen - rejected)", "return scaled(rejected - chosen)"),
            ("turned-comparisons-are-read-as-they-stand", "            pixels.reverse()\n", "            pass\n"),
            ("all-comparisons-of-a-user-are-read", "== self.wanted:\n            return", "== -1:\n            return"),
        ),
    ),
    "lightning_modules/personalized_preference.py": (
        "u.personalized_preference",
        (
            (
                "the-reference-knows-the-user",
                "return without_users(self.model)",
                'return __import__("contextlib").nullcontext()',
            ),
            ("validations-leave-users-out", "if not self.training:", "if False:"),
            ("left-out-users-are-kept", ">= self.user_dropout", "< self.user_dropout"),
            ("pictures-are-made-for-nobody", "if users is None else self.users.of(users)", ""),
            ("a-model-of-users-begins-anew", ".joinpath(WEIGHTS).is_file():", ".joinpath(WEIGHTS).is_dir():"),
        ),
    ),
}
