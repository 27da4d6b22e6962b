"""A later stage of a cascade: a larger picture from a noise-augmented small one. 64→256 and 256→1024 are configs."""

from torch import Tensor, nn

from cascade.diffusion import Condition
from cascade.diffusion.augmentation import Augmentation
from stages.diffusion_stage import Batch, DiffusionStage, Recipe
from stages.draws import Draws


class SuperResolutionStage(DiffusionStage):
    """Each training crop has its own augmentation level, which the network is told (Ho et al. 2022, section 4).

    A batch also holds `low_res` (b, 3, h, w) in [−1, 1], aligned with `image`.
    """

    def __init__(self, denoiser: nn.Module, recipe: Recipe, augmentation: Augmentation) -> None:
        super().__init__(denoiser, recipe)
        self.augmentation = augmentation

    def examples(self, batch: Batch, draws: Draws) -> tuple[Tensor, Condition]:
        """The crop, its label, and the low-res crop blurred and noised at its own level."""
        x, low_res = batch["image"], batch["low_res"]
        # Uniform and not stratified: the strata of λ and of the augmentation level must not be tied to each other.
        aug_log_snr = self.augmentation.level(draws.uniform("augmentation level")).to(x)
        blur = self.augmentation.blur_sigma(draws.uniform("blur"), draws.uniform("blur sigma")).to(x)
        eps = draws.normal("augmentation", tuple(low_res.shape[1:])).to(x)
        low_res = self.augmentation.apply(self.augmentation.blur(low_res, blur), aug_log_snr, eps)
        return x, Condition(label=self.labels(batch), low_res=low_res, aug_log_snr=aug_log_snr)
