"""Tools that a reward model may call. `base.py` has the socket, other files one tool each.

One in a file of the user's own works the same way: text in, text out.
"""

from prl.tools.base import Tool, ToolError, observe
from prl.tools.calculator import Calculator
from prl.tools.calendar import Calendar
from prl.tools.code import Code
from prl.tools.search import Search

__all__ = ["Calculator", "Calendar", "Code", "Search", "Tool", "ToolError", "observe"]
