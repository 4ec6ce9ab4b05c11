"""Log-probabilities of preference pairs under a frozen model, computed in each step or once and cached.

The model is the reference, or a guide of the objective.

Both give equal bits. Cached numbers come from the very calls that a step would make, and in these what a pair gets does
not depend on its batch (`reference_passes.py`).
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_modules import reference_passes
from lightning_modules.reference_passes import Pair, pairs_of, read_pairs, rows_of_pairs
from prl.config import ModelSource
from prl.data.preference_encoding import PreferenceEncoder
from prl.data.reference_cache import ReferenceLogprobs, ReferenceWriter, load_reference, reference_folder
from prl.data.rows.sources import file_hash
from prl.data.tokens import settings_hash
from prl.distributed import gathered, global_max, rank, world_size
from prl.models import logprobs, policy
from prl.models.logprobs import completion_mask
from prl.models.prefix_sharing import completions, packing, tree_attention
from prl.models.prefix_sharing.tree_attention import PrefixSharing
from prl.rl.sharding import Sharding
from prl.run_folder.inputs import model_inputs

REFERENCE = "reference"
"""Name of the reference among the frozen models of a run; the others are guides."""
BLOCK = 256
"""Pairs that each process reads before results are gathered."""


def role_of(name: str) -> str:
    """Return what a frozen model is called in messages: a guide by its setting."""
    return name if name == REFERENCE else f"model guides.{name}"


def reference_logprobs(
    model: Any, batch: dict[str, Tensor], sharding: Sharding, sharing: PrefixSharing | None = None
) -> Tensor:
    """Compute the log-probabilities of all responses of a batch, zero behind their ends: [N, T]."""
    mask = completion_mask(batch["loss_mask"])
    found = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    for rows, values in zip(rows_of_pairs(batch), read_pairs(model, pairs_of(batch), sharding, sharing), strict=True):
        found[rows, : values.shape[1]] = values
    return found


def cached_reference(
    model: Any,
    source: ModelSource,
    rows: Any,
    encoder: PreferenceEncoder,
    *,
    role: str,
    sharding: Sharding,
    sharing: PrefixSharing,
    precision: str,
    is_writer: bool,
) -> ReferenceLogprobs:
    """Look up the log-probabilities of all rows under a frozen model, or compute them now and write them to the cache.

    All processes call it together and share the work.

    Args:
        model: the frozen model, on its device.
        source: source of the model; part of the key.
        rows: `datasets.Dataset` of encoded rows.
        encoder: collates the rows.
        role: what the model is called in messages.
        sharding: how weights are sharded over processes.
        sharing: decides which pairs are read as trees.
        precision: `trainer.precision`, under which the model computes.
        is_writer: whether this process writes for those of its machine.

    Raises:
        ValueError: when the files of the model are not on this machine, so that there is no key, or the cache cannot be
            written.
    """
    key = _key(source, rows, encoder, sharding, f"{precision} {sharing.mode}", role) if rank() == 0 else None
    place = reference_folder(str(gathered(key)[0]))
    found = load_reference(place)
    if not global_max(torch.tensor(int(found is None), device=sharding.device)):
        assert found is not None
        return found
    rank_zero_info("the %s reads %d pairs once; what it says is kept in %s", role, len(rows), place)
    blocks = _blocks(model, rows, encoder, sharding, sharing)
    if is_writer:
        _write(place, blocks, role)
    else:
        for _ in blocks:
            pass
    gathered(None)  # until every machine has its folder
    found = load_reference(place)
    if found is None:
        raise ValueError(f"{place} was damaged while it was written; start again, or use reference_logprobs: live")
    return found


def _write(place: Path, blocks: Iterable[list[list[np.ndarray]]], role: str) -> None:
    try:
        with ReferenceWriter(place) as writer:
            for block in blocks:
                writer.add(block)
    except OSError as error:
        raise ValueError(
            f"log-probabilities of the {role} cannot be written to {place} ({error}); set PRL_HOME to a folder with "
            "room for them, or reference_logprobs to live"
        ) from error


def _blocks(
    model: Any, rows: Any, encoder: PreferenceEncoder, sharding: Sharding, sharing: PrefixSharing
) -> Iterator[list[list[np.ndarray]]]:
    """Yield the responses of all rows in order, some rows at a time, on every process."""
    size = BLOCK * world_size()
    for start in range(0, len(rows), size):
        numbers = range(start, min(start + size, len(rows)))
        mine = numbers[rank() :: world_size()]
        batches = [encoder.collate([rows[number]]) for number in mine or numbers[:1]]
        on_device = [{name: each.to(sharding.device) for name, each in batch.items()} for batch in batches]
        pairs = [pair for batch in on_device for pair in pairs_of(batch)]
        read = zip(read_pairs(model, pairs, sharding, sharing), pairs, strict=True)
        values = [[row[where].cpu().numpy() for row, where in _each(found, pair)] for found, pair in read]
        parts = gathered(values[: len(mine)])
        yield [parts[number % world_size()][number // world_size()] for number in range(len(numbers))]


def _each(found: Tensor, pair: Pair) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(found, completion_mask(pair[2]), strict=True)


def _key(source: ModelSource, rows: Any, encoder: PreferenceEncoder, sharding: Sharding, how: str, role: str) -> str:
    """Hash all that decides a bit: weights and how they compute, token ids, code, and hardware."""
    files = model_inputs("reference", source)
    if not any("reference/" in name for name in files):
        raise ValueError(
            f"the files of the {role} {source.path} are not here to be hashed; use reference_logprobs: live"
        )
    device = sharding.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {torch.get_num_threads()}"
    computed = [source.dtype, source.attn_implementation, how, sharding.keeps_float32_copies, where]
    modules = (logprobs, policy, reference_passes, completions, packing, tree_attention)
    code = [file_hash(Path(__file__)), *(file_hash(Path(str(module.__file__))) for module in modules)]
    versions = [torch.__version__, transformers.__version__]
    return settings_hash(files, computed, code, versions, _hash_of_ids(rows, encoder))


def _hash_of_ids(rows: Any, encoder: PreferenceEncoder) -> str:
    digest, names = hashlib.sha256(), encoder.id_columns
    for part in rows.with_format("numpy", columns=names).iter(batch_size=1024):
        for name in names:
            for found in part[name]:
                digest.update(len(found).to_bytes(4, "little"))
                for ids in found if name in encoder.lists else [found]:
                    digest.update(len(ids).to_bytes(4, "little") + np.asarray(ids, np.int32).tobytes())
    return digest.hexdigest()
