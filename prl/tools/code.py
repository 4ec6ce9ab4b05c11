"""Code that a model wrote, run in a restricted process (docs/restricted.md)."""

from prl.system.restricted import Limits, check_restricted, run_code
from prl.tools.base import Tool, ToolError


class Code(Tool):
    """Run a Python program and answer with what it prints.

    An input is one line, so that ends of lines are written as two characters, a backslash and n.

    Args:
        limits: what the program may use.

    Raises:
        RestrictedError: on a machine that cannot keep code from files and the network, when a tool is made.
    """

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        check_restricted()
        self.limits = limits

    def answer(self, text: str) -> str:
        """Run a program."""
        outcome = run_code(text.replace("\\n", "\n"), limits=self.limits)
        if outcome.ending != "done":
            raise ToolError(f"{outcome.ending}: {outcome.reason}")
        return outcome.printed
