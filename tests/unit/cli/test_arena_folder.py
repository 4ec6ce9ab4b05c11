"""What `prl arena` takes as a player, how it knows it again, and which settings of its folder may still change."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from prl.cli.arena_players import Player, players_of, responses_file
from prl.cli.commands.arena import check_out, check_settings
from prl.config import ModelSource
from prl.run_folder.inputs import inputs_before_download
from prl.run_folder.lock import RunInUseError, run_lock
from prl.system.outputs import OutputError

SAMPLING: dict[str, Any] = {
    **{"max_new_tokens": 5, "temperature": 1.0, "max_prompt_length": 9, "seed": 0, "dtype": "float32"},
    **{"sample_batch": 2, "keep_thoughts": False, "chat_template_kwargs": None},
}


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are found by their files alone."""
    monkeypatch.setattr("prl.models.loading.read_config", lambda source: None)


def test_adapters_and_gguf_files_are_players(tmp_path: Path, unread) -> None:
    for name in ("base", "adapters"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"b")
    (tmp_path / "adapters" / "adapter_model.safetensors").write_bytes(b"a")
    settings = {"base_model_name_or_path": "base", "peft_type": "LORA"}
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "m.gguf").write_bytes(b"g")
    given = [f"{name}={tmp_path / place}" for name, place in (("a", "adapters"), ("g", "m.gguf"))]
    found = players_of(Namespace(players=given, **SAMPLING), [])
    assert {name: set(player.about["inputs"]) for name, player in found.items()} == {
        "a": {
            *("policy/adapter_model.safetensors", "policy/adapter_config.json"),
            *("policy.base/config.json", "policy.base/model.safetensors"),
        },
        "g": {"policy/m.gguf"},
    }


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.txt", "gone.ckpt", "gone.gguf", "somewhere/gone.jsonl"])
def test_a_file_that_is_not_there_is_no_model_on_the_hub(name: str) -> None:
    with pytest.raises(ValueError, match=f"--players a={name}: there is no such file"):
        players_of(Namespace(players=[f"a={name}"], **SAMPLING), [])


def test_a_model_on_the_hub_is_known_by_its_commit_before_and_after_its_download(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def repository(hub_id: str, commit: str) -> Path:
        cache = tmp_path / f"models--{hub_id.replace('/', '--')}"
        (cache / "refs").mkdir(parents=True, exist_ok=True)
        (cache / "refs" / "main").write_text(commit)
        (cache / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
        return cache / "snapshots" / commit

    commits = {"some/one": "1" * 40, "some/two": "2" * 40}
    monkeypatch.setattr("prl.models.loading.read_config", lambda source: repository(source.path, commits[source.path]))
    first = {each: inputs_before_download("policy", ModelSource(path=each)) for each in commits}
    assert first == {each: {"policy": f"{each}@{commit}"} for each, commit in commits.items()}
    (repository("some/one", "1" * 40) / "model.safetensors").write_bytes(b"weights")
    assert inputs_before_download("policy", ModelSource(path="some/one")) == first["some/one"]
    commits["some/one"] = "3" * 40
    assert inputs_before_download("policy", ModelSource(path="some/one")) != first["some/one"]


def test_settings_may_change_until_something_depends_on_them(tmp_path: Path) -> None:
    options = Namespace(out=tmp_path, outcome="wins", pairing="adaptive", block=8, seed=0)
    settings = tmp_path / "settings.json"

    def check(judge: int = 1, prompts: str = "p", outcome: str = "wins", **players: int) -> None:
        options.outcome = outcome
        of = {name: Player("", {"inputs": number}, None) for name, number in players.items()}
        check_settings(options, {"weights": judge}, prompts, of)

    check(a=1, b=1)
    check(judge=2, prompts="q", outcome="probability", a=2, c=1)  # nothing was made with the first
    assert json.loads(settings.read_text())["judge"] == {"weights": 2}
    own = responses_file(tmp_path, "a")
    own.parent.mkdir()
    own.write_text("")
    check(judge=3, prompts="q", a=2, b=5)
    with pytest.raises(ValueError, match=r"with other players \(a\)"):
        check(judge=3, prompts="q", a=1, b=5)
    with pytest.raises(ValueError, match="with other prompts;"):
        check(judge=3, prompts="r", a=2, b=5)
    check(judge=3, prompts="q", b=5, c=1)
    with pytest.raises(ValueError, match=r"with other players \(a\)"):  # whose file may be of other settings
        check(judge=3, prompts="q", a=1, b=5)
    (tmp_path / "comparisons.jsonl").write_text("{}\n")
    check(judge=3, prompts="q", b=5, c=1)
    for changed, told in (({"judge": 4}, r"judge \(weights\)"), ({"outcome": "probability"}, "outcome;")):
        with pytest.raises(ValueError, match=f"with other {told}"):
            check(**{"judge": 3, "prompts": "q", "b": 5, "c": 1, **changed})
    with pytest.raises(ValueError, match=r"with other players \(c\)"):
        check(judge=3, prompts="q", b=5)


def test_one_command_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    with run_lock(tmp_path / "out", "out"):
        check_out(tmp_path / "out")  # the lock of a command that was refused later is no content
        with (
            pytest.raises(RunInUseError, match=r"^out .* is in use.*choose another --out"),
            run_lock(tmp_path / "out", "out"),
        ):
            pass
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(OutputError, match="holds something already"):
        check_out(tmp_path / "out")
