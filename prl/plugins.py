"""Discovery of methods by their file: a new method is one file, and no other file changes."""

from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any


def methods_in(package: str, path: list[str], socket: type) -> dict[str, Any]:
    """Import the files of a package and return the classes in them that can be used in a config, by name.

    Args:
        package: name of the package.
        path: `__path__` of the package.
        socket: base class of the methods.

    Raises:
        ValueError: when two files have a class of one name.
    """
    found: dict[str, Any] = {}
    for each in iter_modules(path):
        module = import_module(f"{package}.{each.name}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, socket)
            if not own or isabstract(value) or name.startswith("_"):
                continue
            if name in found:
                raise ValueError(f"{package} has two methods named {name}: in {found[name].__module__} and {each.name}")
            found[name] = value
    return found
