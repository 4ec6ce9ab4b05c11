"""What users of the world of pictures say of a model's own pictures."""

import json
from pathlib import Path

import numpy as np

from prl.data.images import ImageFiles, as_tensor
from prl.quickstart.images import Look, figure_share, parse_prompt, reference, render, to_uint8, write_arrays
from prl.quickstart.images.own_pairs import write_own_user_pairs

PROMPT, OTHER = "a red circle on the left", "a blue square at the top"
LOOKS = (Look(size=2.6), Look(size=3.8), Look(size=2.7), Look(size=3.7))


def test_users_take_turns_and_compare_the_two_best_by_their_taste(tmp_path: Path) -> None:
    pairs, path = tmp_path / "pairs", tmp_path / "users" / "rows.jsonl"
    scenes = [parse_prompt(text) for text in (OTHER, PROMPT, PROMPT, OTHER)]  # the right ones are the middle ones
    pairs.mkdir()
    path.parent.mkdir()
    pictures = [render(scene, look) for scene, look in zip(scenes, LOOKS, strict=True)]
    write_arrays(pairs, "pairs.train", to_uint8(np.stack(pictures)))
    row = {"prompt": PROMPT, "responses": [reference("pairs.train", number) for number in range(4)]}
    (pairs / "pairs.train.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    write_own_user_pairs(pairs, path, "train", ("large", "small"), 2)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["user"] for each in rows] == ["large_0", "small_0", "large_1", "small_1", "large_0", "small_0"]
    names = [f"../pairs/pairs.train.npy#{number}" for number in (1, 2)]
    for each in rows:
        assert sorted((each["chosen"], each["rejected"])) == names
        chosen, rejected = (
            float(figure_share(as_tensor(ImageFiles(path.parent).read(each[side], side))[None]))
            for side in ("chosen", "rejected")
        )
        assert (chosen > rejected) == each["user"].startswith("large")
