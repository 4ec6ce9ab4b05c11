"""Silence of Lightning where a command runs several stages."""

import logging
import warnings


def quiet_lightning() -> None:
    """Hide Lightning's tips and tables, which are for runs of one stage."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
