"""The training snippet of docs/python.md, as it is written there."""

import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.integration.runs import Home

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_snippet_trains_and_writes_a_policy(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quickstart = tmp_path / "runs" / "quickstart"
    for name, target in (
        ("supervised/model", home.policy),
        ("judge/model", home.judge),
        ("world", home.root / "world"),
    ):
        (quickstart / name).parent.mkdir(parents=True, exist_ok=True)
        (quickstart / name).symlink_to(target)
    (snippet,) = (
        code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "L.Trainer" in code
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRL_HOME", str(tmp_path / "cache"))
    names: dict = {}
    exec(snippet, names)
    assert names["trainer"].global_step > 0
    before, after = (
        dict(AutoModelForCausalLM.from_pretrained(each).named_parameters()) for each in (home.policy, "policy")
    )
    assert any(not before[name].equal(weight) for name, weight in after.items())
