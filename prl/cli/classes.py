"""Classes named in the options of a small command, built as LightningCLI builds those of a config."""

from copy import deepcopy
from typing import Any

from jsonargparse import ArgumentParser

from prl.cli.usage import explained


def built(name: str, kind: type, value: Any) -> Any:
    """Build an object of a class, given by its path or its short name, with settings.

    Args:
        name: of the option, for errors.
        kind: base class.
        value: class path, or a mapping of class_path and init_args.

    Raises:
        ValueError: when there is no such class, or its settings are wrong.
    """
    import prl.judge
    import prl.pairs.rules
    import prl.rewards  # noqa: F401

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    try:
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in 4.49
        # A copy: classes named inside it would be put in place of its mappings.
        return instantiate(parser.parse_object({name: deepcopy(value)}))[name]
    except Exception as error:  # jsonargparse's own class differs between its releases
        raise ValueError(f"--{name} {value}: {explained(str(error), [])}") from None
