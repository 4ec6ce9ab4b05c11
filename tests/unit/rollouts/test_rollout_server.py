"""Responses from a server: ids in, ids out, and weights that follow the policy."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prl.config import Sampling
from prl.rollouts.server import RolloutServer
from tests.helpers.rollout_server import serving
from tests.helpers.tiny import tiny_model, tiny_tokenizer, write_tiny_model
from tests.unit.rollouts.test_generate import prompts

TOKENIZER = tiny_tokenizer()
PAD, END = int(TOKENIZER.pad_token_id), int(TOKENIZER.eos_token_id)
ENDS = [END, *range(7, 20)]
"""Many, since a random model hardly draws a certain one."""
BATCH = prompts(["a", "a longer prompt", "b c"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "served", seed=0)
    return tmp_path / "served"


def client(server: Any, folder: Path, engine: Any, **settings: Any) -> RolloutServer:
    url = server.root + ("/v1" if engine == "vllm" else "")
    return RolloutServer(url, str(folder), engine, retries=0, **settings)


@pytest.mark.parametrize("keeps_end", [True, False])
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_rollout_has_the_ids_that_were_drawn(engine: str, keeps_end: bool, folder: Path) -> None:
    with serving(folder, keeps_end=keeps_end) as server:
        drawn: list[list[int]] = []
        draw = server.engine.draw

        def remember(*arguments: Any) -> tuple[list[int], str]:
            drawn.append(draw(*arguments)[0])
            return drawn[-1], "stop" if drawn[-1][-1] in ENDS else "length"

        server.engine.draw = remember
        many = BATCH.repeat(8)
        sampling = Sampling(max_new_tokens=6, temperature=0.7)
        rollout = client(server, folder, engine).complete(many, sampling, end_ids=ENDS, tokenizer=TOKENIZER)
        bodies = [body for _, body in server.seen]
    rows = [ids[mask].tolist() for ids, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    assert sorted(rows) == sorted(drawn)
    ended = [row[: len(row) - (row[-1] in ENDS)] for row in rows]
    assert rollout.texts == [TOKENIZER.decode(row) for row in ended]
    assert rollout.finished.tolist() == [row[-1] in ENDS for row in rows]
    assert 0 < int(rollout.finished.sum()) < len(rows)
    assert rollout.response_ids[~rollout.response_mask].unique().tolist() == [PAD]
    asked = sorted(body["prompt" if engine == "vllm" else "input_ids"] for body in bodies)
    assert asked == sorted(ids[mask].tolist() for ids, mask in zip(many.prompt_ids, many.prompt_mask, strict=True))
    settings = [body if engine == "vllm" else body["sampling_params"] for body in bodies]
    assert {(each["temperature"], each["top_p"], each["top_k"], each["repetition_penalty"]) for each in settings} == {
        (0.7, 1.0, -1, 1.0)
    }
    if engine == "vllm":
        assert len({body["seed"] for body in bodies}) == len(bodies)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_server_reads_what_is_written(engine: str, folder: Path) -> None:
    with serving(folder) as server:
        before = server.engine.model.state_dict()
        client(server, folder, engine).update(lambda aside: write_tiny_model(aside, seed=1))
        after = server.engine.model.state_dict()
        paths = [path for path, _ in server.seen]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert paths == (["/collective_rpc", "/reset_prefix_cache"] if engine == "vllm" else ["/update_weights_from_disk"])
    assert [path.name for path in folder.parent.iterdir()] == ["served"]


def test_no_weights_of_before_are_left(folder: Path) -> None:
    """vLLM reads what an index names, whatever else there is."""
    model = tiny_model(0)
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert (folder / "model.safetensors.index.json").is_file()
    (folder / "notes").mkdir()

    def write(aside: Path) -> None:
        write_tiny_model(aside, seed=1)
        (aside / "templates").mkdir()
        (aside / "templates" / "one.jinja").write_text("{{ messages }}")

    with serving(folder) as server:
        for _ in range(2):
            client(server, folder, "vllm").update(write)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert (folder / "templates" / "one.jinja").is_file()
    assert (folder / "notes").is_dir()


def test_what_is_wrong_is_told(folder: Path, tmp_path: Path) -> None:
    sampling, ends = Sampling(max_new_tokens=4), {"end_ids": [END], "tokenizer": TOKENIZER}
    with serving(folder, tells_ids=False) as server:
        with pytest.raises(ValueError, match=r"answers without token_ids \(vLLM has them from 0.10.2 on\)"):
            client(server, folder, "vllm").complete(BATCH, sampling, **ends)
        with pytest.raises(ValueError, match=r"RolloutServer.folder .*nowhere holds no model: copy the policy's"):
            client(server, tmp_path / "nowhere", "vllm").check()
        client(server, folder, "vllm").check()
        server.answers["/collective_rpc"] = lambda _: (404, {"detail": "Not Found"})
        with pytest.raises(ValueError, match="/collective_rpc answered 404"):
            client(server, folder, "vllm").update(lambda aside: write_tiny_model(aside, seed=1))
        server.answers["/update_weights_from_disk"] = lambda _: (200, {"success": False, "message": "no memory"})
        with pytest.raises(ValueError, match=r"did not read .*no memory"):
            client(server, folder, "sglang").update(lambda aside: write_tiny_model(aside, seed=1))
        long = {"output_ids": [5] * 9, "meta_info": {"finish_reason": {"type": "length"}}}
        server.answers["/generate"] = lambda _: (200, long)
        with pytest.raises(ValueError, match="a response of 9 tokens ended with 'length', of 4 allowed"):
            client(server, folder, "sglang").complete(BATCH, sampling, **ends)
        aborted = {"output_ids": [5], "meta_info": {"finish_reason": {"type": "abort"}}}
        server.answers["/generate"] = lambda _: (200, aborted)
        with pytest.raises(ValueError, match="ended with 'abort'"):
            client(server, folder, "sglang").complete(BATCH, sampling, **ends)
    with pytest.raises(ValueError, match=r"no server at http://127.0.0.1:"):
        client(server, folder, "vllm").check()
    with pytest.raises(ValueError, match="expected http://HOST:PORT/v1"):
        RolloutServer("localhost", str(folder))
    with pytest.raises(ValueError, match="concurrency is 0"):
        RolloutServer("http://localhost", str(folder), concurrency=0)


VOCAB = len(TOKENIZER)
IDS = st.lists(st.integers(-3, VOCAB + 3) | st.sampled_from([1.5, 7.0, True, None, "7", [7], 10**400, END]), max_size=6)
ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))
REASON = st.sampled_from(["stop", "length", "abort"]) | ODD


def vllm_answer(ids: Any, reason: Any, matched: Any) -> Any:
    return {"choices": [{"token_ids": ids, "finish_reason": reason, "stop_reason": matched}]}


def sglang_answer(ids: Any, reason: Any, matched: Any) -> Any:
    return {"output_ids": ids, "meta_info": {"finish_reason": {"type": reason, "matched": matched}}}


@pytest.mark.parametrize(("engine", "answered"), [("vllm", vllm_answer), ("sglang", sglang_answer)])
@given(ids=IDS | ODD, reason=REASON, matched=ODD | st.sampled_from(ENDS), shape=ODD, is_shaped=st.booleans())
def test_any_answer_is_a_response_or_a_word(
    served: Path, engine: Any, answered: Any, ids: Any, reason: Any, matched: Any, shape: Any, is_shaped: bool
) -> None:
    answer = answered(ids, reason, matched) if is_shaped else shape
    source = RolloutServer("http://h/v1", str(served), engine)
    source._opened = SimpleNamespace(ask=lambda _, __, read, **___: read(answer))  # type: ignore[assignment]
    try:
        rollout = source.complete(BATCH, Sampling(max_new_tokens=4), end_ids=ENDS, tokenizer=TOKENIZER)
    except ValueError:
        return
    row = rollout.response_ids[0][rollout.response_mask[0]].tolist()
    assert 0 < len(row) <= 4
    assert row[: len(ids)] == ids
    assert all(0 <= each < VOCAB for each in row)
    assert not set(row[:-1]) & set(ENDS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder that is only read."""
    folder = tmp_path_factory.mktemp("served")
    write_tiny_model(folder, seed=0)
    return folder


@pytest.mark.parametrize("wrong", [VOCAB, -5, 1.0, True, [5], "5", None])
def test_no_id_outside_the_vocabulary_reaches_a_rollout(wrong: Any, folder: Path) -> None:
    with serving(folder) as server:
        server.answers["/v1/completions"] = lambda _: (200, vllm_answer([5, wrong], "length", None))
        words = re.escape(f"a response has the token id {wrong}; expected whole numbers below {VOCAB}")
        with pytest.raises(ValueError, match=rf"http://127.0.0.1:[0-9]+/v1/completions gave an answer .*{words}"):
            client(server, folder, "vllm").complete(
                BATCH, Sampling(max_new_tokens=4), end_ids=ENDS, tokenizer=TOKENIZER
            )


def test_a_malformed_answer_is_asked_for_again(folder: Path) -> None:
    with serving(folder) as server:
        good = server.answers["/v1/completions"]
        answers = iter([lambda _: (200, None), lambda _: (200, vllm_answer([1.5], "length", None))])
        server.answers["/v1/completions"] = lambda body: next(answers, good)(body)
        source = RolloutServer(f"{server.root}/v1", str(folder), retries=2)
        rollout = source.complete(BATCH, Sampling(max_new_tokens=3), end_ids=ENDS, tokenizer=TOKENIZER)
    assert len(rollout.response_ids) == len(BATCH)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"vocab_size": "many"}', '{"text_config": 3}'])
def test_a_folder_that_tells_no_vocabulary_is_named(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"served/config.json|vocab_size in .*served/config.json"):
        RolloutServer("http://localhost:1/v1", str(folder)).check()


def test_a_folder_that_is_read_or_holds_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    start, other = str(write_tiny_model(tmp_path / "start", seed=0)), write_tiny_model(tmp_path / "other", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "start")
    with serving(folder) as server:
        for own in (tmp_path / "start", tmp_path / "link"):
            with pytest.raises(ValueError, match="is a model that the run reads .*start.*to a place of its own"):
                client(server, own, "vllm").check(start)
        with pytest.raises(ValueError, match="is a model that the run reads .*other"):
            client(server, other, "vllm").check(start, [None, str(other)])
        with pytest.raises(ValueError, match="model.safetensors is neither in the policy's start folder"):
            client(server, other, "vllm").check(start)
        (folder / "server.log").write_text("what a server leaves")
        client(server, folder, "vllm").check(start)
        (folder.with_name("served.partial")).mkdir()
        client(server, folder, "vllm").update(lambda aside: write_tiny_model(aside, seed=1))
        client(server, folder, "vllm").check(start)  # another model by now, which a run wrote
    assert (folder.with_name("served.partial")).is_dir()
    assert (folder / "server.log").is_file()
