import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prl.config import LoRA, ModelSource
from prl.models.loading import (
    ModelNotFoundError,
    disable_dropout,
    freeze,
    is_adapted,
    load_backbone,
    load_causal_lm,
    load_scalar_classifier,
    load_tokenizer,
    save_model,
    without_weights,
)
from tests.helpers.numbers import assert_same_numbers
from tests.helpers.tiny import LLAMA, tiny_model, tiny_tokenizer, write_tiny_model
