"""Prompts with anchor responses for pairwise PPO."""

from typing import Any

from datamodules.base import RecordDataModule
from prl.data import AnchoredPrompt, DataError, DataSource


class PromptDataModule(RecordDataModule):
    """Rows with prompt and anchor (one or several); see `RecordDataModule` for the arguments."""

    record_type = AnchoredPrompt

    def _read(self, name: str, source: DataSource, reports: dict[str, Any]) -> list[AnchoredPrompt]:
        records: list[AnchoredPrompt] = super()._read(name, source, reports)
        bare = [record for record in records if not record.anchors]
        if bare:
            raise DataError(
                f"{source.path}: {len(bare)} of {len(records)} prompts have no anchor, the first one begins "
                f"{bare[0].prompt[-1]['content'][:60]!r}. Pairwise PPO needs one: add a column 'anchor', or "
                "map one, for example columns: {anchor: chosen}"
            )
        return records
