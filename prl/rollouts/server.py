"""Sampling by an inference server with a copy of the policy: vLLM or SGLang."""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import torch

from prl import __version__
from prl.config import Sampling
from prl.models.location import MODEL_FILES
from prl.models.model_card import CARD
from prl.rollouts.base import PolicyHandle, Sampler
from prl.rollouts.generate import decode
from prl.system.full_disk import naming_when_full
from prl.system.http import Server, ServerError, check_connection, latest
from prl.types import PromptBatch, Rollout

WRITTEN = "prl_rollout.json"
"""File that marks a folder into which a run has written its policy."""


class RolloutServer(Sampler):
    """Sends prompts as token ids, gets token ids back, and gives the server the policy's weights when they change.

    The server samples only. The policy computes log-probabilities over the same ids, so an engine that rounds
    differently changes which responses are drawn and no ratio. A server's draws cannot be repeated, so a resumed run is
    not bit-identical.

    Args:
        base_url: URL of the server: of vLLM with `/v1` at the end, of SGLang without.
        folder: the model folder on which the server was started, on a file system that both reach. The run writes the
            policy there.
        engine: protocol of the server. vLLM must be started with VLLM_SERVER_DEV_MODE=1.
        model: name of the model on the server, for vLLM; the folder when null.
        concurrency: requests under way at a time, from each process.
        timeout: seconds for one response, from connecting to the last byte of the answer, or for reloading.
        retries: further tries, with growing pauses, after an error of connection or server or a malformed answer.
        api_key_env: environment variable with the key, which is sent by https or to this machine alone; no key is sent
            when it is null or not set.

    Raises:
        ValueError: for settings out of range.
    """

    takes_weights = True

    def __init__(
        self,
        base_url: str,
        folder: str,
        engine: Literal["vllm", "sglang"] = "vllm",
        model: str | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
        retries: int = 3,
        api_key_env: str | None = None,
    ) -> None:
        self.base_url = check_connection(base_url, concurrency=concurrency, timeout=timeout, retries=retries)
        self.folder, self.engine = Path(folder), engine
        self.model, self.concurrency, self.timeout = model or folder, concurrency, timeout
        self.retries, self.api_key_env = retries, api_key_env
        self._opened: Server | None = None
        self._served: int | None = None

    @property
    def _server(self) -> Server:
        """Connection to the server, opened on first use, because an export does not need the key."""
        if self._opened is None:
            self._opened = Server(
                self.base_url,
                timeout=self.timeout,
                retries=self.retries,
                concurrency=self.concurrency,
                api_key_env=self.api_key_env,
            )
        return self._opened

    def check(self, start: str | None = None, read: Iterable[str] = ()) -> None:
        """Refuse a folder that is not for the server alone, and a server that does not answer.

        Args:
            start: the policy's start folder, or a hub id.
            read: paths of the other models of the run: reference, judges.

        Raises:
            ValueError: naming the folder.
        """
        self._check_folder(start, [each for each in (start, *read) if each is not None])
        self._vocab_size()
        root = self.base_url.removesuffix("/v1")
        try:
            self._server.ask(f"{root}/health", None, timeout=min(self.timeout, 10))
        except ServerError as error:
            raise ValueError(f"no server at {root} that is well: {error}") from None

    def _check_folder(self, start: str | None, read: list[str]) -> None:
        for given in read:
            if Path(given).expanduser().resolve() == self.folder.expanduser().resolve():
                raise ValueError(
                    f"RolloutServer.folder {self.folder} is a model that the run reads ({given}), and each update "
                    "would overwrite it: copy the policy's start folder to a place of its own, and serve that one"
                )
        if not (self.folder / "config.json").is_file():
            raise ValueError(
                f"RolloutServer.folder {self.folder} holds no model: copy the policy's start folder there and start "
                "the server on it"
            )
        if (self.folder / WRITTEN).is_file() or start is None or not Path(start).expanduser().is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            copied_from = Path(start).expanduser() / path.name
            is_written = path.is_file() and any(map(path.match, MODEL_FILES)) and path.name != CARD
            if is_written and not (copied_from.is_file() and cmp(path, copied_from, shallow=False)):
                raise ValueError(
                    f"{path} is neither in the policy's start folder {start} nor written by a run, and updates of "
                    "RolloutServer.folder would overwrite or delete it: copy the start folder to a place of its own"
                )

    # ---- weights

    def update(self, write: Callable[[Path], None]) -> None:
        """Write a model into the folder, each file atomically, and have the server load it.

        Args:
            write: fills an empty folder.

        Raises:
            ValueError: when the server does not load the model.
        """
        partial = self.folder.with_name(f".prl.{self.folder.name}.partial")  # used by no other program
        rmtree(partial, ignore_errors=True)
        with naming_when_full(self.folder):
            write(partial)
            (partial / WRITTEN).write_text(json.dumps({"prl": __version__}) + "\n")
        new = {path.name for path in partial.iterdir()}
        for path in list(self.folder.iterdir()):
            # A server would still read the files that an old index names.
            is_weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
            if path.is_dir() and path.name in new:
                rmtree(path)
            elif is_weights and path.name not in new:
                path.unlink()
        for name in sorted(new):
            os.replace(partial / name, self.folder / name)
        partial.rmdir()
        root = self.base_url.removesuffix("/v1")
        if self.engine == "sglang":
            found = self._server.ask(f"{root}/update_weights_from_disk", {"model_path": str(self.folder)}, _as_it_is)
            if not isinstance(found, dict) or found.get("success") is not True:
                raise ValueError(f"the server at {root} did not read {self.folder}: {str(found)[:200]}")
        else:
            self._server.ask(f"{root}/collective_rpc", {"method": "reload_weights"})
            # Keys and values of the earlier weights.
            self._server.ask(f"{root}/reset_prefix_cache", {})

    # ---- sampling

    def sample(self, batch: PromptBatch, policy: PolicyHandle) -> Rollout:
        """Sample one response to each prompt, after the server has the policy's newest weights.

        Raises:
            ValueError: as `complete`.
        """
        if self._served != policy.version:
            policy.publish(self.update)
            self._served = policy.version
        return self.complete(batch, policy.sampling, end_ids=policy.end_ids, tokenizer=policy.tokenizer)

    def complete(self, batch: PromptBatch, sampling: Sampling, *, end_ids: list[int], tokenizer: Any) -> Rollout:
        """Sample one response to each prompt from softmax(logits / temperature), without truncation.

        Args:
            batch: B prompts.
            sampling: length limit and temperature.
            end_ids: ids that end a response.
            tokenizer: the policy's tokenizer.

        Raises:
            ValueError: when a prompt gets no answer, or one without token ids.
        """
        rows = zip(batch.prompt_ids.tolist(), batch.prompt_mask.tolist(), strict=True)
        prompts = [[token for token, counts in zip(*row, strict=True) if counts] for row in rows]
        seeds = torch.randint(2**31, (len(prompts),)).tolist()
        ask = self._ask_sglang if self.engine == "sglang" else self._ask_vllm
        limits, end = _Limits(sampling, end_ids, self._vocab_size()), latest()
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = [pool.submit(ask, ids, seed, limits, end) for ids, seed in zip(prompts, seeds, strict=True)]
            try:
                found = [each.result() for each in asked]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)  # a prompt without an answer ends the rollout
        device, width = batch.prompt_ids.device, max(map(len, found))
        pad_id = int(tokenizer.pad_token_id)
        ids = torch.tensor([each + [pad_id] * (width - len(each)) for each in found], device=device)
        mask = torch.arange(width, device=device) < torch.tensor(list(map(len, found)), device=device)[:, None]
        finished = torch.tensor([each[-1] in end_ids for each in found], device=device)
        texts = decode(tokenizer, ids, mask, finished)
        return Rollout(batch, ids, mask, finished, texts, sampling.max_new_tokens)

    def _vocab_size(self) -> int:
        """Return the vocabulary size of the model in the folder. Raises ValueError when its config has none."""
        path = self.folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            size = config.get("vocab_size") or config["text_config"]["vocab_size"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} tells no vocab_size ({type(error).__name__}: {str(error)[:100]})") from None
        if type(size) is not int:
            raise ValueError(f"vocab_size in {path} is {str(size)[:60]}; expected a number")
        return size

    def _ask_vllm(self, prompt: list[int], seed: int, limits: "_Limits", end: float) -> list[int]:
        sampling = limits.sampling
        body = {"model": self.model, "prompt": prompt, "max_tokens": sampling.max_new_tokens, "seed": seed}
        # Override all that the generation_config of a model folder may set.
        body |= {"temperature": sampling.temperature, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
        body |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0}
        body |= {"stop_token_ids": limits.end_ids, "return_token_ids": True}

        def read(answer: Any) -> list[int]:
            choices = _field(answer, "choices", list)
            if len(choices) != 1:
                raise ValueError(f"it has {len(choices)} choices; expected one")
            if _field(choices[0], "token_ids", object) is None:
                raise ValueError(
                    f"the server at {self.base_url} answers without token_ids (vLLM has them from 0.10.2 on); text "
                    "alone does not say which tokens were drawn"
                )
            ids, reason = _field(choices[0], "token_ids", list), _field(choices[0], "finish_reason", str)
            return _checked(ids, reason, choices[0].get("stop_reason"), limits)

        return self._server.ask(f"{self.base_url}/completions", body, read, end=end)

    def _ask_sglang(self, prompt: list[int], _: int, limits: "_Limits", end: float) -> list[int]:
        settings: dict[str, Any] = {
            "max_new_tokens": limits.sampling.max_new_tokens,
            "temperature": limits.sampling.temperature,
            "top_p": 1.0,
        }
        settings |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
        settings |= {"frequency_penalty": 0.0, "min_new_tokens": 0, "stop_token_ids": limits.end_ids}

        def read(answer: Any) -> list[int]:
            if _field(answer, "output_ids", object) is None:
                raise ValueError(f"the server at {self.base_url} answers without output_ids; update SGLang")
            reason = _field(_field(answer, "meta_info", dict), "finish_reason", dict)
            ids = _field(answer, "output_ids", list)
            return _checked(ids, _field(reason, "type", str), reason.get("matched"), limits)

        body = {"input_ids": prompt, "sampling_params": settings}
        return self._server.ask(f"{self.base_url}/generate", body, read, end=end)


@dataclass(frozen=True)
class _Limits:
    """Limits of a response."""

    sampling: Sampling
    end_ids: list[int]
    vocab_size: int


def _as_it_is(answer: Any) -> Any:
    return answer


def _field(found: Any, name: str, kind: type) -> Any:
    """Return a field of an answer; None for a missing one if `kind` is object. Raises ValueError for another type."""
    if not isinstance(found, dict):
        raise ValueError(f"it has {str(found)[:60]} where {name} is expected")
    value = found.get(name)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {str(value)[:60]}; expected {kind.__name__}")
    return value


def _checked(ids: list[Any], reason: str, matched: Any, limits: _Limits) -> list[int]:
    """Check a response and return it with the drawn end token, which servers may leave out.

    Raises:
        ValueError: when the response ended for another reason than an end token or its length, or breaks the limits.
    """
    end_ids, most = limits.end_ids, limits.sampling.max_new_tokens
    if wrong := [each for each in ids if type(each) is not int or not 0 <= each < limits.vocab_size]:
        raise ValueError(
            f"a response has the token id {str(wrong[0])[:60]}; expected whole numbers below {limits.vocab_size}, the "
            "vocabulary of the policy"
        )
    if reason == "stop" and (not ids or ids[-1] not in end_ids):
        is_end = type(matched) is int and matched in end_ids
        if not is_end and len(end_ids) > 1:
            told = str(matched)[:60]
            raise ValueError(f"a response ended with {told!r}, which does not say which of {end_ids} was drawn")
        ids = [*ids, matched if is_end else end_ids[0]]
    if reason not in ("stop", "length") or not 0 < len(ids) <= most:
        raise ValueError(f"a response of {len(ids)} tokens ended with {reason[:60]!r}, of {most} allowed")
    if inside := [each for each in ids[:-1] if each in end_ids]:
        raise ValueError(f"a response goes on after the token {inside[0]}, which ends it")
    return ids
