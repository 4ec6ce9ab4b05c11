"""What is said while weights are read and written."""

from pathlib import Path

from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as logs

from prl.config import ModelSource
from prl.models.loading import load_causal_lm, load_scalar_classifier, load_tokenizer, save_model
from prl.models.quiet import without_bars


def test_weights_are_read_and_written_without_a_word(tiny_folder: Path, tmp_path: Path, capfd, caplog) -> None:
    source = ModelSource(path=str(tiny_folder))
    save_model(load_causal_lm(source), load_tokenizer(source), tmp_path)
    load_scalar_classifier(source)  # its new head is no surprise
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


def test_bars_of_downloads_stay() -> None:
    with without_bars():
        assert not logs.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    assert logs.is_progress_bar_enabled()
