"""A calculator: arithmetic on numbers, read as a tree and never evaluated as code."""

import ast
import math
import operator
import warnings
from collections.abc import Callable

from prl.tools.base import Tool, ToolError

Number = int | float
_PLAIN: dict[type, Callable[..., Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., Number]] = {"sqrt": math.sqrt, "abs": abs, "round": round, "min": min, "max": max}


class Calculator(Tool):
    """Compute + - * / // % ** of numbers, with parentheses, sqrt, abs, round, min and max.

    Args:
        longest: characters of an expression.
        digits: of the largest whole number; beyond it, and for what is no number, there is no answer.

    Raises:
        ValueError: for a limit below 1.
    """

    def __init__(self, longest: int = 200, digits: int = 50) -> None:
        if longest < 1 or digits < 1:
            raise ValueError(f"Calculator.longest is {longest} and digits {digits}; expected at least 1")
        self.longest, self.digits = longest, digits

    def answer(self, text: str) -> str:
        """Compute an expression."""
        if len(text) > self.longest:
            raise ToolError(f"the expression has {len(text)} characters, the limit is {self.longest}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what Python takes for a slip in code
                tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
            value = self._value(tree.body)
        except ToolError:
            raise
        except ZeroDivisionError:
            raise ToolError("division by zero") from None
        except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
            raise ToolError(f"{text.strip()[:40]!r} is no arithmetic") from None
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        return str(int(value)) if whole else f"{value:.10g}" if isinstance(value, float) else str(value)

    def _value(self, node: ast.AST) -> Number:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            return self._checked(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return self._power(self._value(node.left), self._value(node.right))
        if isinstance(node, ast.BinOp) and type(node.op) in _PLAIN:
            return self._checked(_PLAIN[type(node.op)](self._value(node.left), self._value(node.right)))
        if isinstance(node, ast.UnaryOp) and type(node.op) in _PLAIN:
            return _PLAIN[type(node.op)](self._value(node.operand))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id in _FUNCTIONS:
                numbers = list(map(self._value, node.args))
                if node.func.id == "round" and len(numbers) > 1 and abs(numbers[1]) > self.digits:
                    raise ToolError(f"round keeps at most {self.digits} digits")
                return self._checked(_FUNCTIONS[node.func.id](*numbers))
            raise ToolError(f"there is no function {node.func.id!r}; there are {', '.join(_FUNCTIONS)}")
        raise ToolError("only numbers, + - * / // % ** and parentheses")

    def _power(self, base: Number, exponent: Number) -> Number:
        """Raise to a power whose size is known before it is computed."""
        if base and abs(exponent) * abs(math.log10(abs(base))) > self.digits:
            raise ToolError(f"the power has more than {self.digits} digits")
        return self._checked(base**exponent)

    def _checked(self, value: Number) -> Number:
        if isinstance(value, complex) or not math.isfinite(value):
            raise ToolError("the result is no real number")
        if isinstance(value, int) and abs(value) >= 10**self.digits:
            raise ToolError(f"a number has more than {self.digits} digits")
        return value
