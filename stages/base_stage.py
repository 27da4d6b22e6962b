"""The first stage of a cascade: class-conditional pictures from noise."""

from torch import Tensor, nn

from cascade.diffusion import Condition
from cascade.diffusion.geometric import AugmentPipe
from stages.diffusion_stage import Batch, DiffusionStage, Recipe
from stages.draws import Draws


class BaseStage(DiffusionStage):
    """Pictures are moved by `geometric` (non-leaky: the network is told how), labels are dropped for guidance."""

    def __init__(self, denoiser: nn.Module, recipe: Recipe, geometric: AugmentPipe) -> None:
        super().__init__(denoiser, recipe)
        self.geometric = geometric

    def examples(self, batch: Batch, draws: Draws) -> tuple[Tensor, Condition]:
        """Moved pictures, their labels, and how they were moved."""
        x = batch["image"]
        if self.geometric.dim == 0:
            return x, Condition(label=self.labels(batch))
        uniforms = draws.uniform("geometric", (self.geometric.UNIFORMS,))
        normals = draws.normal("geometric normals", (self.geometric.NORMALS,))
        moved, augment = self.geometric(x, uniforms, normals)
        return moved, Condition(label=self.labels(batch), augment=augment)

    def validation_examples(self, batch: Batch, draws: Draws) -> tuple[Tensor, Condition]:  # noqa: ARG002
        """Pictures as they are."""
        return batch["image"], Condition(label=self.labels(batch))
