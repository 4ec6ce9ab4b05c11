"""Faults of what an iteration computes once: passes and hidden states that are kept too long, or for other rows."""

BY_FILE: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "prl/models/frozen_layers.py": (
        "u.frozen_layers",
        (
            ("rows-of-one-shape-are-one", "value.dtype, _digest(value))", "value.dtype)"),
            ("embeddings-learn-below", "if trained - above:", "if False:"),
            ("tied-heads-learn-alone", "head.parameters()} - shared", "head.parameters()}"),
            ("keys-and-values-are-kept-too", "if any(kwargs.get(name) for name in OF_EVERY_LAYER)", "if False"),
            ("every-model-can", "all(torch.equal(found[0], each) for each in found[1:])", "True"),
        ),
    ),
    "prl/rl/actors.py": (
        "i.computed_once u.actors",
        (
            ("validations-keep-states", "        if not to_learn:\n            self.forget()\n", ""),
            ("heads-on-shared-states-learn-apart", "isinstance(self.critic, ValueHead)", "False"),
            ("kept-passes-are-made-again", "not shared and self._scored is None and", "not shared and"),
            ("shards-read-frozen-layers", "resources.reuse_frozen_layers and not sharding.cuts_weights", "True"),
        ),
    ),
    "lightning_modules/policy_update.py": (
        "i.computed_once u.actors",
        (
            ("several-steps-learn-from-scoring", "able and steps == 1 and", "able and"),
            ("states-outlive-their-update", "            self.actors.forget()\n", ""),
        ),
    ),
    "lightning_modules/policy_base.py": (
        "i.computed_once",
        (("left-out-updates-keep-their-pass", "        self.actors.forget()  # what", "        # what"),),
    ),
}
