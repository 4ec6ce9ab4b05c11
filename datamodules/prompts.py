"""Prompts with anchor responses for pairwise PPO."""

from collections.abc import Iterable

from datamodules.base import RecordDataModule
from prl.data import AnchoredPrompt, DataError, Record, RecordStream


class PromptDataModule(RecordDataModule):
    """Rows with prompt and, where the module reads them, anchors; see `RecordDataModule` for the arguments."""

    record_type = AnchoredPrompt

    def _usable(self, name: str, stream: RecordStream) -> Iterable[Record]:
        num_bare, beginning = 0, ""
        for record in stream:
            if self.encoder.needs_anchors and not record.anchors:
                num_bare, beginning = num_bare + 1, beginning or record.prompt[-1]["content"][:60]
            elif not num_bare:
                yield record
        if num_bare:
            raise DataError(
                f"{stream.source.path}: {num_bare} of {stream.report.num_records} prompts have no anchor, the first "
                f"one begins {beginning!r}. Add a column 'anchor', or map one, for example columns: "
                "{anchor: chosen}; or let the run find anchors by itself: model.init_args.anchors (docs/ppo.md)"
            )
