"""Rollouts by a server that holds a copy of the policy: vLLM or SGLang, instead of transformers' own generation."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import requests
import torch

from prl.config import Sampling
from prl.http import check_connection, open_session
from prl.types import PromptBatch, Rollout


class RolloutServer:
    """Sends prompts as token ids, gets token ids back, and gives the server the policy's weights when they changed.

    Only sampling is done there. Log-probabilities are computed by the model that learns, over the very same ids, so an
    engine that rounds in another way changes which responses are drawn and no ratio. A server's draws cannot be
    repeated, so a resumed run is not the same to the last bit.

    Args:
        base_url: of the server: of vLLM with `/v1` at the end, of SGLang without.
        folder: the model folder on which the server was started, on a file system that both reach. The run writes the
            policy there.
        engine: whose way to sample and to reload is spoken. vLLM has to be started with VLLM_SERVER_DEV_MODE=1.
        model: name of the model there, for vLLM; the folder when null.
        concurrency: requests under way at a time, from each process.
        timeout: seconds for one response, or for reloading.
        retries: further tries after an error of the connection or the server, with growing pauses.
        api_key_env: environment variable with the key; none is sent when it is not set.

    Raises:
        ValueError: for settings out of range.
    """

    def __init__(
        self,
        base_url: str,
        folder: str,
        engine: Literal["vllm", "sglang"] = "vllm",
        model: str | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
        retries: int = 3,
        api_key_env: str = "OPENAI_API_KEY",
    ) -> None:
        self.base_url = check_connection(base_url, concurrency=concurrency, timeout=timeout, retries=retries)
        self.folder, self.engine = Path(folder), engine
        self.model, self.concurrency, self.timeout = model or folder, concurrency, timeout
        self._session = open_session(retries=retries, concurrency=concurrency, api_key_env=api_key_env)

    def check(self) -> None:
        """Raises ValueError when the folder is not there, or the server does not answer."""
        if not (self.folder / "config.json").is_file():
            raise ValueError(
                f"rollout_server.folder {self.folder} holds no model: copy the policy's start folder there and start "
                "the server on it"
            )
        root = self.base_url.removesuffix("/v1")
        try:
            found = self._session.get(f"{root}/health", timeout=min(self.timeout, 10))
        except requests.RequestException as error:
            raise ValueError(f"no server at {root}: {error}") from error
        if not found.ok:
            raise ValueError(f"the server at {root} is not healthy: {found.status_code} {found.text[:200]}")

    # ---- weights

    def update(self, write: Callable[[Path], None]) -> None:
        """Put a model into the folder, each file at once, and let the server read it.

        Args:
            write: fills an empty folder.

        Raises:
            ValueError: when the server does not read it.
        """
        aside = self.folder.with_name(f"{self.folder.name}.partial")
        rmtree(aside, ignore_errors=True)
        write(aside)
        new = {path.name for path in aside.iterdir()}
        for path in list(self.folder.iterdir()):
            # A server would go on reading the files that an old index names.
            is_weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
            if path.is_dir() and path.name in new:
                rmtree(path)
            elif is_weights and path.name not in new:
                path.unlink()
        for name in sorted(new):
            os.replace(aside / name, self.folder / name)
        aside.rmdir()
        root = self.base_url.removesuffix("/v1")
        if self.engine == "sglang":
            found = self._post(f"{root}/update_weights_from_disk", {"model_path": str(self.folder)}).json()
            if not found.get("success"):
                raise ValueError(f"the server at {root} did not read {self.folder}: {found}")
        else:
            self._post(f"{root}/collective_rpc", {"method": "reload_weights"})
            self._post(f"{root}/reset_prefix_cache", {})  # keys and values of the weights before

    # ---- sampling

    def sample(self, batch: PromptBatch, sampling: Sampling, *, end_ids: list[int], pad_id: int) -> Rollout:
        """One response to each prompt, from softmax(logits / temperature), nothing cut off.

        Args:
            batch: B prompts.
            sampling: length limit and temperature.
            end_ids: ids that end a response.
            pad_id: id written after the end.

        Raises:
            ValueError: when a prompt gets no answer, or one without token ids.
        """
        rows = zip(batch.prompt_ids.tolist(), batch.prompt_mask.tolist(), strict=True)
        prompts = [[token for token, counts in zip(*row, strict=True) if counts] for row in rows]
        seeds = torch.randint(2**31, (len(prompts),)).tolist()
        ask = self._ask_sglang if self.engine == "sglang" else self._ask_vllm
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = [
                pool.submit(ask, prompt, seed, sampling, end_ids) for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            found = [each.result() for each in asked]
        device, width = batch.prompt_ids.device, max(map(len, found))
        ids = torch.tensor([each + [pad_id] * (width - len(each)) for each in found], device=device)
        mask = torch.arange(width, device=device) < torch.tensor(list(map(len, found)), device=device)[:, None]
        finished = torch.tensor([each[-1] in end_ids for each in found], device=device)
        return Rollout(batch.prompt_ids, batch.prompt_mask, ids, mask, finished)

    def _ask_vllm(self, prompt: list[int], seed: int, sampling: Sampling, end_ids: list[int]) -> list[int]:
        body = {"model": self.model, "prompt": prompt, "max_tokens": sampling.max_new_tokens, "seed": seed}
        # All that a model folder's generation_config may have turned on.
        body |= {"temperature": sampling.temperature, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
        body |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0}
        body |= {"stop_token_ids": end_ids, "return_token_ids": True}
        (choice,) = self._post(f"{self.base_url}/completions", body).json()["choices"]
        if choice.get("token_ids") is None:
            raise ValueError(
                f"the server at {self.base_url} answers without token_ids (vLLM has them from 0.10.2 on); text alone "
                "does not say which tokens were drawn"
            )
        return _checked(choice["token_ids"], choice["finish_reason"], choice.get("stop_reason"), sampling, end_ids)

    def _ask_sglang(self, prompt: list[int], _: int, sampling: Sampling, end_ids: list[int]) -> list[int]:
        settings: dict[str, Any] = {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
        }
        settings |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0}
        settings |= {"frequency_penalty": 0.0, "min_new_tokens": 0, "stop_token_ids": end_ids}
        found = self._post(f"{self.base_url}/generate", {"input_ids": prompt, "sampling_params": settings}).json()
        if "output_ids" not in found:
            raise ValueError(f"the server at {self.base_url} answers without output_ids; update SGLang")
        reason = found["meta_info"]["finish_reason"]
        return _checked(found["output_ids"], reason["type"], reason.get("matched"), sampling, end_ids)

    def _post(self, url: str, body: dict[str, Any]) -> requests.Response:
        try:
            found = self._session.post(url, json=body, timeout=self.timeout)
        except requests.RequestException as error:
            raise ValueError(f"{url} did not answer: {error}") from error
        if not found.ok:
            raise ValueError(f"{url} answered {found.status_code}: {found.text[:200]}")
        return found


def _checked(ids: list[int], reason: str, matched: Any, sampling: Sampling, end_ids: list[int]) -> list[int]:
    """The response with the end token that was drawn, which servers may keep to themselves.

    Raises:
        ValueError: when it ended for another reason than an end token or its length, or cannot be what was asked for.
    """
    if reason == "stop" and (not ids or ids[-1] not in end_ids):
        if matched not in end_ids and len(end_ids) > 1:
            raise ValueError(f"a response ended with {matched!r}, which does not say which of {end_ids} was drawn")
        ids = [*ids, matched if matched in end_ids else end_ids[0]]
    if reason not in ("stop", "length") or not 0 < len(ids) <= sampling.max_new_tokens:
        raise ValueError(f"a response of {len(ids)} tokens ended with {reason!r}, of {sampling.max_new_tokens} allowed")
    return ids
