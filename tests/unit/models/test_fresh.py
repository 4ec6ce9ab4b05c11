"""Names and sizes of a model of random weights."""

import pytest
from transformers import AutoConfig

from prl.config import ModelSource
from prl.models.fresh import check_config_names


def checked(**fields: object) -> None:
    check_config_names(AutoConfig.for_model(**fields), ModelSource(config=fields, tokenizer="t"))


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "llama", "rope_theta": 5e5, "hidden_size": 64},
        {"model_type": "gpt_neox", "rotary_pct": 0.5},
        {"model_type": "qwen2", "rope_theta": 1e6},
    ],
)
def test_settings_of_rotary_positions_are_known(fields: dict[str, object]) -> None:
    checked(**fields)


def test_a_misspelt_name_is_told_with_what_may_be_meant() -> None:
    with pytest.raises(ValueError, match=r"llama has no setting hidden_sizes; did you mean hidden_size\?"):
        checked(model_type="llama", hidden_sizes=8)
