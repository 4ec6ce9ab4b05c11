"""DeepSpeed on CPU processes, which Lightning refuses: the strategy of a run, with another device."""

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy

from lightning_modules.strategies import ZeROStrategy


class CPUZeRO(ZeROStrategy):
    """`DS_ACCELERATOR=cpu` has to be set before anything is imported."""

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", self.local_rank)  # DeepSpeed wants an index

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()  # Lightning's own check left out

    def setup_distributed(self) -> None:
        import deepspeed
        from lightning.fabric.utilities.seed import reset_seed

        # Else it compiles collectives of its own, into one place that every environment on the machine shares.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()
