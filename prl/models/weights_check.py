"""Check that the files of a model hold its weights: all of them, no others, in their shapes."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from prl.models.damage import naming_damage

SHOWN = 4
"""Most names of one kind that an error lists."""


class WeightsError(ValueError):
    """Raised for files without all weights of their model; the missing weights would be random."""


def check_found(
    auto_class: Any, model: Any, found: dict[str, Any], path: str, *, new_head: bool, trust_remote_code: bool = False
) -> set[str]:
    """Compare a model with the weights that transformers found, and return the names of missing ones.

    transformers has already dropped names that the model's class calls harmless. Heads of other classes are harmless
    too where a backbone is read, or a new head replaces them.

    Args:
        auto_class: class that read the model.
        model: the loaded model.
        found: transformers' `output_loading_info`.
        path: source of the model.
        new_head: whether the model's own head is new.
        trust_remote_code: whether classes may come from the model's folder.

    Raises:
        WeightsError: for weights of another model, or of another shape.
    """
    unexpected = set(found["unexpected_keys"])
    if unexpected and (auto_class is AutoModel or new_head):
        unexpected -= _heads(model.config, trust_remote_code)
    shapes = [
        f"{name} is {_shape(one)} there and {_shape(other)} in the model"
        for name, one, other in found["mismatched_keys"]
    ]
    if unexpected or shapes:
        _refuse(model, path, found["missing_keys"], unexpected, shapes)
    return set(found["missing_keys"])


def check_missing(model: Any, missing: Collection[str], path: str, *, new_head: bool) -> None:
    """Refuse a model with weights that no file holds, a new head excepted.

    Raises:
        WeightsError: naming the missing weights.
    """
    inside = f"{model.base_model_prefix}."
    if lacking := {name for name in missing if not new_head or name.startswith(inside)}:
        _refuse(model, path, lacking, (), ())


def makes_new_head(auto_class: Any, config: Any) -> bool:
    """Return whether a class puts a new head on a model that was saved with another head or without one."""
    written_as = config.architectures or []
    return auto_class is AutoModelForSequenceClassification and not any(
        name.endswith("ForSequenceClassification") for name in written_as
    )


def class_of_adapters(path: str) -> tuple[Any, dict[str, int]]:
    """Find the class of the model with which adapters were trained, head included, and what its config was told."""
    from peft import PeftConfig
    from peft.utils import load_peft_weights

    with naming_damage(path):
        folder = str(Path(path).expanduser())
        if PeftConfig.from_pretrained(folder).task_type != "SEQ_CLS":
            return AutoModelForCausalLM, {}
        weights = load_peft_weights(folder, device="cpu")
    # The trained head stands beside the adapters, under the name that its architecture gives it.
    heads = [len(weight) for name, weight in weights.items() if name.endswith((".score.weight", ".classifier.weight"))]
    return AutoModelForSequenceClassification, {"num_labels": max(heads, default=1)}


def load_adapters(adapted: Any, path: str, name: str) -> set[str]:
    """Read a folder of adapters into a model that has adapters already.

    Args:
        adapted: peft's model.
        path: the folder.
        name: name of the set of adapters, new or of equal shape.

    Returns:
        Names of the base model's own weights that the folder replaces, such as a trained head.

    Raises:
        WeightsError: when the folder lacks a weight, or holds another one, or one of another shape.
    """
    from peft.utils import load_peft_weights

    with adapter_errors(path):
        found = adapted.load_adapter(path, name, is_trainable=False)
        names = load_peft_weights(path, device="cpu")
    if found.missing_keys or found.unexpected_keys:
        faults = [*_listed("missing", found.missing_keys), *_listed("unexpected", found.unexpected_keys)]
        raise _adapter_error(path, faults)
    return {key.removeprefix("base_model.model.") for key in names}


@contextmanager
def adapter_errors(path: str) -> Iterator[None]:
    """Translate errors of peft's reader, which reports mismatches by Python's own classes."""
    try:
        with naming_damage(path, but=(KeyError, RuntimeError)):
            yield
    except KeyError as error:  # a module that is trained whole
        raise _adapter_error(path, [f"missing {error.args[0]}"]) from None
    except RuntimeError as error:
        raise _adapter_error(path, [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]) from None


def _heads(config: Any, trust_remote_code: bool) -> set[str]:
    """List names of weights outside of the backbone, under each class that has some."""
    names: set[str] = set()
    with torch.device("meta"):
        for auto_class in (AutoModelForCausalLM, AutoModelForSequenceClassification):
            with suppress(ValueError):  # no such class for this type of model
                other = auto_class.from_config(config, trust_remote_code=trust_remote_code)
                names |= {name for name in other.state_dict() if not name.startswith(f"{other.base_model_prefix}.")}
    return names


def _refuse(model: Any, path: str, missing: Iterable[str], unexpected: Iterable[str], shapes: Iterable[str]) -> None:
    faults = [*_listed("missing", missing), *_listed("unexpected", unexpected), *shapes]
    raise WeightsError(
        f"{path} does not hold the weights of {type(model).__name__}: {'; '.join(faults)}. Copy or export the folder "
        "anew, or give the folder of such a model"
    )


def _adapter_error(path: str, faults: list[str]) -> WeightsError:
    shown = [*faults[:SHOWN], *([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])]
    return WeightsError(
        f"{path} does not hold the weights of its adapters: {'; '.join(shown)}. Copy or export the folder anew, or "
        "give the base model that the adapters were trained on"
    )


def _listed(word: str, names: Iterable[str]) -> list[str]:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return [f"{word} {', '.join(ordered[:SHOWN])}{more}"] if ordered else []


def _shape(size: Iterable[int]) -> str:
    return str(list(size))
