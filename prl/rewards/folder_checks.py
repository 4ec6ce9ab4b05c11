"""Checks of the files beside a judge's weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from prl.config import Reasoning
from prl.objectives.skew_symmetric import SkewSymmetric

FORMAT = 1
"""Version of the passport's layout."""
_TEMPLATE = {"text": str, "verdicts": list, "chat": bool, "answer_prefix": str}
_GROUPS = ("sources", "canaries", "agreement", "reasons")
"""Fields of a report that hold several figures by name."""
_MOST = 1 << 40
"""Largest count; anything larger is damage, and would not fit a float or a tensor."""


def judge_fault(settings: Mapping[str, Any]) -> str | None:
    """Describe what is wrong with the contents of a prl_judge.json; None when valid, or of an unknown kind."""
    kind = settings.get("kind")
    if kind is not None and not isinstance(kind, str):
        return f"kind is {_shown(kind)}; expected a name"
    if kind not in _FAULTS:
        return None
    if not is_count(settings.get("max_length")) or settings["max_length"] < 1:
        return f"max_length is {_shown(settings.get('max_length'))}; expected a number of tokens"
    temperature = settings.get("temperature", 1.0)
    if not is_number(temperature) or temperature <= 0:
        return f"temperature is {_shown(temperature)}; expected a number above 0"
    if not is_number(settings.get("position_offset", 0.0)):
        return f"position_offset is {_shown(settings['position_offset'])}; expected a number, log-odds"
    return _FAULTS[kind](settings)


def _scalar_fault(settings: Mapping[str, Any]) -> str | None:
    weights = settings.get("head_weights", [1.0])
    if not isinstance(weights, list) or not weights or not all(map(is_number, weights)):
        return f"head_weights is {_shown(weights)}; expected a number for each head"
    if "head_names" not in settings:
        return None
    names = settings["head_names"]
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or len(names) != len(weights) or len(set(names)) < len(names):
        return f"head_names is {_shown(names)}; expected a name of its own for each of {len(weights)} heads"
    return None


def _reasoning_fault(given: Any) -> str | None:
    names = {field.name for field in fields(Reasoning)}
    if not isinstance(given, Mapping) or not given.keys() <= names:
        return f"reasoning is {_shown(given)}; expected an object of {', '.join(sorted(names))}"
    for name, kind in (("max_tokens", is_count), ("samples", is_count), ("seed", is_count), ("temperature", is_number)):
        if name in given and not kind(given[name]):
            return f"reasoning.{name} is {_shown(given[name])}; expected a number"
    if not isinstance(given.get("closing", ""), str):
        return f"reasoning.closing is {_shown(given['closing'])}; expected text"
    try:
        Reasoning(**given)
    except ValueError as error:
        return str(error)
    return None


def _generative_fault(settings: Mapping[str, Any]) -> str | None:
    if "reasoning" in settings and (fault := _reasoning_fault(settings["reasoning"])) is not None:
        return fault
    ids = settings.get("verdict_ids")
    # By hand, for a model that was not trained as a judge; a file that prl wrote has both.
    by_hand = not settings.keys() & {"verdict_ids", "template_fingerprint"}
    if by_hand and "template" not in settings:
        return None
    if not by_hand and (not isinstance(ids, list) or len(ids) != 2 or not all(map(is_count, ids))):
        return f"verdict_ids is {_shown(ids)}; expected two token ids"
    template = settings.get("template")
    if not isinstance(template, Mapping):
        return f"template is {_shown(template)}; expected an object with text and verdicts"
    if unknown := sorted(template.keys() - _TEMPLATE.keys()):
        return f"template has {_shown(unknown[0])}, which is no part of one ({', '.join(_TEMPLATE)})"
    for name in ("text", "verdicts", *template):
        if not isinstance(template.get(name), _TEMPLATE[name]):
            return f"template.{name} is {_shown(template.get(name))}; expected {_TEMPLATE[name].__name__}"
    words = template["verdicts"]
    if len(words) != 2 or not all(isinstance(word, str) for word in words):
        return f"template.verdicts is {_shown(words)}; expected two words"
    return None


def _preference_fault(settings: Mapping[str, Any]) -> str | None:
    given = settings.get("preference")
    names = [field.name for field in fields(SkewSymmetric)]
    if not isinstance(given, Mapping) or sorted(given) != sorted(names):
        return f"preference is {_shown(given)}; expected {', '.join(names)}"
    if not is_count(given["dim"]) or not is_number(given["tau"]):
        return f"preference.dim and tau are {_shown(given['dim'])} and {_shown(given['tau'])}; expected numbers"
    if odd := [name for name in ("normalize", "prompt_head") if not isinstance(given[name], bool)]:
        return f"preference.{odd[0]} is {_shown(given[odd[0]])}; expected true or false"
    try:
        SkewSymmetric(**given)
    except ValueError as error:
        return str(error)
    return None


_FAULTS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "generative": _generative_fault,
    "bradley_terry": _scalar_fault,
    "general_preference": _preference_fault,
}
"""Kind of a judge -> the check of its own settings."""


def passport_fault(passport: Mapping[str, Any]) -> str | None:
    """Describe what is wrong with the contents of an rm_passport.json; None when valid."""
    if type(passport.get("format")) is not int or passport["format"] != FORMAT:
        return f"format is {_shown(passport.get('format'))}"
    for name in ("judge", "data", "report"):
        if not isinstance(passport.get(name), dict):
            return f"{name} is {_shown(passport.get(name))}; expected an object"
    report = passport["report"]
    pairs, ties = report.get("num_pairs"), report.get("num_ties", 0)
    for name, number in (("num_pairs", pairs), ("num_ties", ties)):
        if not is_count(number):
            return f"report.{name} is {_shown(number)}; expected a number of pairs"
    if ties > pairs:
        return f"report.num_ties is {ties}, of {pairs} pairs"
    if (training := passport.get("training")) is not None and (fault := training_fault(training)) is not None:
        return f"training: {fault}"
    return next(_odd_figures(report, "report"), None)


def training_fault(record: Any) -> str | None:
    """Describe what is wrong with the record of a judge's training; None when valid."""
    if not isinstance(record, Mapping):
        return f"it is {_shown(record)}; expected an object"
    if missing := [name for name in ("attacks", "base", "prompts") if name not in record]:
        return f"{missing[0]} is not there"
    attacks = record["attacks"]
    if not isinstance(attacks, Mapping):
        return f"attacks is {_shown(attacks)}; expected an object"
    for name in ("trained", "held_out"):
        families = attacks.get(name)
        if not isinstance(families, list) or not all(isinstance(family, str) for family in families):
            return f"attacks.{name} is {_shown(families)}; expected names of families"
    base, prompts = record["base"], record["prompts"]
    if base is not None:
        if not isinstance(base, Mapping):
            return f"base is {_shown(base)}; expected an object"
        for name in ("name", "weights_sha256"):
            if name not in base or not isinstance(base[name], str | None):
                return f"base.{name} is {_shown(base.get(name))}; expected text or null"
    if prompts is not None and (not isinstance(prompts, Mapping) or not is_count(prompts.get("num"))):
        return f"prompts is {_shown(prompts)}; expected a number of prompts"
    return None


def _odd_figures(report: Mapping[str, Any], where: str) -> Iterator[str]:
    """List the entries of a report that are no finite number, null, measured mean, or group of these."""
    for name, found in report.items():
        here = f"{where}.{name}"
        if not isinstance(found, Mapping):
            if found is not None and not is_number(found):
                yield f"{here} is {_shown(found)}; expected a number"
        elif "mean" in found or (where == "report" and name not in _GROUPS):
            if odd := [part for part in ("mean", "low", "high") if not is_number(found.get(part))]:
                yield f"{here}.{odd[0]} is {_shown(found.get(odd[0]))}; expected a number"
        else:
            yield from _odd_figures(found, here)


def is_count(found: Any) -> bool:
    """Return whether a value is a count."""
    return type(found) is int and 0 <= found < _MOST


def is_number(found: Any) -> bool:
    """Return whether a value is a number that can be compared."""
    if type(found) is int:
        return abs(found) < _MOST
    return type(found) is float and math.isfinite(found)


def _shown(found: Any) -> str:
    try:
        return "missing" if found is None else repr(found)[:60]
    except (RecursionError, ValueError):
        return type(found).__name__
