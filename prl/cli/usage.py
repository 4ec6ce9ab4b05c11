"""Errors of a command line or config that the parser refuses: one message that names the setting, and what is meant."""

import inspect
import re
import sys
import typing
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from prl.cli.other_names import ELSEWHERE

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|unrecognized arguments: (?:--)?([^\s=]+)")
_NO_CLASS = re.compile(r"Expected a dot import path string: (.*)")
_NOT_IMPORTED = re.compile(r"(module '.+' has no attribute '.+'|No module named '.+'|not enough values to unpack)")
_WRONG = re.compile(r"Expected an? (.+?)\. Got value: (.*)")
_REFUSED = re.compile(r"argument --(\w+): invalid NoneType value")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but ?(\S*) is abstract")
_OTHER_KIND = re.compile(r"Import path ?(\S*) does not correspond to a subclass of (\w+)")
_MISSING = re.compile(r"the following arguments are required: (.*)")
_VERB = re.compile(r"\b(?:fit|validate|test|predict)\.(?=data|model)")
_GIVEN = re.compile(r"Given value: (.*)")
_NESTED = re.compile(r"NestedArg\(key='(?:[\w.]+\.)?(\w+)'")
_SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
_NAMED_TYPE = re.compile(r"<class '(?:\w+\.)*(\w+)'>|\b(?:\w+\.)+(?=\w)")


class Parser(LightningArgumentParser):
    """LightningArgumentParser that tells a wrong setting in one line, and takes null for a nested setting."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # A beginning of a name is not the name: `--seed` would be a slip or another library's.
        options.setdefault("prog", "prl")
        super().__init__(*args, allow_abbrev=False, **options)
        self.given: list[str] = []

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Parse; a nested setting comes with its value as Python writes it."""
        self.given = [each for each in args or [] if isinstance(each, str)]
        if getattr(self, "_inner_parser", False) and args is not None:
            args = [f"{each[:-4]}null" if each.partition("=")[2] == "None" else each for each in args]
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with code 2 and one message; inside a class the outer parser does."""
        if not self.exit_on_error:
            super().error(message, ex)
        # The parser above the verb reports missing arguments, so the verb comes from the command line.
        inner = getattr(ex, "subcommand_parser", None)
        verb = "" if inner or not self.given or self.given[0].startswith("-") else f" {self.given[0]}"
        prog = f"{(inner or self).prog.replace(' [options]', '')}{verb}"
        sys.stderr.write(f"error: {explained(str(message), self.given)}\n(all settings: {prog} --help)\n")
        self.exit(2)
        raise AssertionError  # which mypy asks for


def explained(message: str, given: list[str]) -> str:
    """Reduce an error of jsonargparse, which lists each type that a value is not of, to the setting that is wrong.

    Args:
        message: of jsonargparse.
        given: the arguments of the command line.
    """
    classes = _CLASS.findall(message)
    found = _Place(_KEY.findall(message), classes, given)
    if unknown := _UNKNOWN.search(message):
        return found.unknown(unknown.group(1) or unknown.group(2))
    if classes and (reason := _NOT_IMPORTED.search(message)):
        return found.no_class(classes[-1], reason.group(1))
    if refused := _REFUSED.search(message):
        return found.unknown(refused.group(1))
    if wrong := _WRONG.search(message):
        return f"{found.setting} is {wrong.group(2)!r}; expected {_plain(wrong.group(1))}"
    if missing := _MISSING.search(message):
        before = message[: missing.start()]
        place = _Place(_KEY.findall(before), _CLASS.findall(before), given)
        return place.missing(_VERB.sub("", missing.group(1)))
    if misfit := _ABSTRACT.search(message) or _OTHER_KIND.search(message):
        value = _GIVEN.search(message, misfit.end())
        name = misfit.group(1) or (value.group(1) if value else "")
        if misfit.re is _OTHER_KIND:
            return f"{found.setting}: {name} is no {misfit.group(2)}"
        return found.abstract(name, _NESTED.findall(value.group(1)) if value else [])
    if named := _NO_CLASS.search(message):
        types = _SUBTYPES.findall(message)
        return found.no_class(named.group(1), f"expected {_plain(types[-1])}" if types else "")
    return message


def _plain(types: str) -> str:
    names = _NAMED_TYPE.sub(lambda found: found.group(1) or "", types)
    choice = re.fullmatch(r"Literal\[(.*)\]", names)
    names = f"one of {choice.group(1)}".replace("'", "") if choice else names
    return names.replace("NoneType", "null").replace(", null", " or null")


class _Place:
    """Setting that is wrong, from the keys and the classes on the way to it, outermost first."""

    def __init__(self, keys: list[str], classes: list[str], given: list[str]) -> None:
        self.classes, self.given = classes, given
        self.setting = ".init_args.".join(keys)

    def unknown(self, name: str) -> str:
        """Tell that there is no setting of this name, and which may be meant."""
        last = name.rpartition(".")[2]
        where = f"{self.setting}.init_args.{name}" if self.classes else name
        of = f" of {_short(self.classes[-1])}" if self.classes else ""
        text = f"unrecognized setting {where}{of}"
        owner = self.classes[-1] if self.classes else _OWNERS.get(name.partition(".")[0])
        beside = _settings_at(owner, name if self.classes else last) if owner else [*_OWNERS, *_TOP]
        stem = where.rpartition(".")[0]
        near = get_close_matches(last, beside, 1, 0.6)
        # A slip beside the right name is one; a name of another library is told its place, unless that is this place.
        if (meant := self._elsewhere(last)) and not get_close_matches(last, near, 1, 0.85):
            return f"{text}; {meant}"
        return f"{text}; did you mean {stem}{'.' if stem else ''}{near[0]}?" if near else text

    def _elsewhere(self, name: str) -> str:
        """Tell where the chosen module has what another library calls so; without a choice, where each has it."""
        places = ELSEWHERE.get(name, "").split("; ")
        if places[0].startswith("none"):
            return f"prl has {places[0]}"
        places = [each for each in places if each and each.split(" of ")[-1] != self.setting]
        model = _class(self.classes[0] if self.setting.startswith("model") and self.classes else _chosen(self.given))
        if not places:
            return ""
        if model is None:
            return f"in prl it is {' or '.join(f'{each}{_of_whom(each)}' for each in places)}"
        if here := [each for each in places if _has(model, each)]:
            return f"in prl it is {here[0]}"
        return f"{', '.join(f'{_having(each)} it ({each})' for each in places)}, {model.__name__} has not"

    def abstract(self, name: str, nested: list[str]) -> str:
        """Tell what a class lacks, or that a setting of a class comes before the class."""
        kind = _class(name)
        methods = _methods(kind) if kind else []
        if not methods:
            lacking = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
            return f"{self.setting}: {name} {f'lacks {lacking}' if lacking else 'is abstract; name a class below it'}"
        fitting = [each for each in methods if set(nested) & set(_settings(each))] or methods
        return f"{self.setting}: name the class first, such as --{self.setting} {fitting[0].__name__}"

    def missing(self, names: str) -> str:
        """Tell what a class needs, or that there are no settings of a run at all."""
        if not self.classes:
            advice = "give the settings of a run, --config FILE (configs/quickstart has some)"
            return f"the following arguments are required: {names}: {advice}"
        options = " ".join(f"--{self.setting}.{each} VALUE" for each in names.split(", "))
        return f"{self.setting}: {_short(self.classes[-1])} needs {names}: {options}"

    def no_class(self, name: str, reason: str) -> str:
        """Tell that there is no class of this name, and which may be meant."""
        package, _, short = name.rpartition(".")
        # Short names are those of the classes that prl imports for it.
        known = [each for module in ([package] if package else _SHORT) for each in _classes_of(module)]
        near = get_close_matches(short, known, 1, 0.6)
        meant = f"; did you mean {package}{'.' if package else ''}{near[0]}?" if near else ""
        about = f" ({reason}; write its whole path, package.module.Class)" if reason and not near else ""
        root = package.partition(".")[0]
        if root and root in reason and (Path(f"{root}.py").is_file() or Path(root).is_dir()):
            about = f" ({reason}; it lies in this folder, where Python does not look: PYTHONPATH=. prl ...)"
        return f"{self.setting}{': ' if self.setting else ''}there is no class {name}{meant}{about}"


_ROOTS = ("prl", "lightning_modules", "datamodules", "lightning")
_SHORT = ("lightning_modules", "datamodules", "lightning.pytorch.callbacks")
_TOP = (
    "run_dir",
    "overwrite",
    "accept_changes",
    "config",
    "print_config",
    "ckpt_path",
    "seed_everything",
    "data",
    "model",
)
_OWNERS = {
    "trainer": "lightning.pytorch.Trainer",
    "checkpoint": "lightning_modules.callbacks.RunCheckpoint",
}


def _classes_of(module: str) -> list[str]:
    if module.partition(".")[0] not in _ROOTS:
        return []  # a suggestion is not worth running code of somebody else
    try:
        found = import_module(module)
    except ImportError:
        return []
    return [name for name, each in vars(found).items() if inspect.isclass(each)]


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _class(path: str) -> type | None:
    """Find a class that is imported already, by its path, or by its name alone when that is enough in a config."""
    module, _, short = path.rpartition(".")
    found = (getattr(sys.modules.get(each), short, None) for each in ([module] if module else _SHORT))
    return next((each for each in found if inspect.isclass(each)), None)


def _methods(socket: type) -> list[type]:
    """List the classes of prl below one that can be made."""
    below: list[type] = type.__subclasses__(socket)
    found = [kind for each in below for kind in (each, *_methods(each)) if not inspect.isabstract(kind)]
    return [each for each in found if each.__module__.partition(".")[0] in _ROOTS]


def _settings(kind: type) -> dict[str, Any]:
    """List the settings of a class with their types, those behind its ** included."""
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        if "__init__" in vars(each):
            taken = dict(list(inspect.signature(each.__init__).parameters.items())[1:])  # type: ignore[misc]
            try:
                types = typing.get_type_hints(each.__init__)  # type: ignore[misc]
            except NameError:  # of an import for type checkers
                types = {}
            named = [name for name, setting in taken.items() if setting.kind not in _STARS]
            found = {name: types.get(name) for name in named} | found
            if all(setting.kind is not inspect.Parameter.VAR_KEYWORD for setting in taken.values()):
                break
    return found


_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _classes_in(hint: Any) -> list[type]:
    """List the classes that a type names."""
    inner = [each for part in typing.get_args(hint) for each in _classes_in(part)]
    return inner or ([hint] if inspect.isclass(hint) else [])


def _settings_at(path: str, name: str) -> list[str]:
    """List the settings beside a dotted one of a class."""
    kind = _class(path)
    kinds = [kind] if kind else []
    for part in name.split(".")[:-1]:
        kinds = [each for kind in kinds for each in _classes_in(_settings(kind).get(part))]
    return [setting for kind in kinds for setting in _settings(kind)]


def _has(model: type, place: str) -> bool:
    """Return whether a module has a setting as `ELSEWHERE` writes it; what is not of the model is there with each."""
    name, _, owner = place.partition(",")[0].partition(":")[0].partition(" of ")
    *stem, last = (owner or name).split(".")
    if stem[:1] != ["model"]:
        return True
    kinds: list[type] = [model]
    for part in stem[2:]:
        kinds = [each for kind in kinds for each in _classes_in(_settings(kind).get(part))]
    found = [_settings(kind)[last] for kind in kinds if last in _settings(kind)]
    if not owner:
        return bool(found)
    methods = [method for hint in found for kind in _classes_in(hint) for method in (kind, *_methods(kind))]
    return any(name in _settings(method) for method in methods)


def _owners(place: str) -> list[str]:
    """List the modules of texts that have a setting: other libraries' names are of these."""
    modules = import_module("lightning_modules")
    return [name for name in _modules_of_texts() if _has(getattr(modules, name), place)]


def _modules_of_texts() -> list[str]:
    modules = import_module("lightning_modules")
    kinds = {name: getattr(modules, name).record_type.__module__ for name in modules.__all__}
    return [name for name, kind in kinds.items() if not kind.endswith("image_records")]


def _listed(names: list[str]) -> str:
    *first, last = names or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _having(place: str) -> str:
    names = _owners(place)
    return f"{_listed(names)} {'has' if len(names) == 1 else 'have'}"


def _of_whom(place: str) -> str:
    """Bracket the modules that have a setting, unless all have."""
    names = _owners(place)
    return "" if len(names) == len(_modules_of_texts()) else f" ({_listed(names)})"


def _chosen(given: list[str]) -> str:
    """Find the class path of the model in the arguments and their files; the last word counts."""
    found = ""
    for option, following in zip(given, [*given[1:], ""], strict=False):
        name, is_joined, value = option.partition("=")
        value = value if is_joined else following
        if name in ("--model", "--model.class_path"):
            found = value
        elif name in ("--config", "-c"):
            try:
                read = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError):
                continue
            model = read.get("model") if isinstance(read, dict) else None
            named = model.get("class_path") if isinstance(model, dict) else model
            found = named if isinstance(named, str) else found
    return found
