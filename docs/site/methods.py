"""A griffe extension: classes that a package finds by their files are shown under the name that a config uses."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

DISCOVERY = re.compile(r"methods_in\(__name__, __path__, (\w+)\)")
"""How a package of methods says so; the name is that of its socket."""


class Methods(griffe.Extension):
    """Export from each package of methods its socket and the classes of its files that fill the socket."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Add what `prl.plugins.methods_in` adds when the package is imported, without importing it."""
        for package in _packages(pkg):
            if (found := DISCOVERY.search(package.source)) is None:
                continue
            socket = package.members[found[1]]
            exports = [str(each) for each in package.exports or [found[1]]]
            for module in list(package.modules.values()):
                for name, each in module.classes.items():
                    if not each.is_alias and not name.startswith("_") and _fills(each, socket.target_path):
                        package.set_member(name, griffe.Alias(name, each.path))
                        exports.append(name)
            package.exports = exports


def _packages(module: griffe.Module) -> Iterator[griffe.Module]:
    """Walk over a package and those inside of it."""
    for each in module.modules.values():
        if not each.is_alias and (each.is_package or each.is_subpackage):
            yield each
            yield from _packages(each)


def _fills(method: griffe.Class, socket: str) -> bool:
    """Return whether a class inherits from the socket."""
    return method.path != socket and any(base.canonical_path == socket for base in method.mro())
