"""The mutants of how one stage is sampled: what guides it, where it stops, what it is told."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/stage_sampler.py", "test_truncated_stage.py test_guided_stage.py test_orchestrator.py"
        " test_classifier_guided_stage.py",
        ("truncated, the grid is cut at λ_a",
         'cut(build("grid", sampling.grid), until)', 'build("grid", sampling.grid)'),
        ("truncated, x_λ has its noise already", "if low_res.dtype != torch.uint8:", "if False:"),
        ("truncated, x_λ is not rounded",
         "return made.cpu() if math.isfinite(self.until) else to_uint8(made).cpu()", "return to_uint8(made).cpu()"),
        ("truncated, shown is x̂ and not x_λ",
         "self.denoiser(x, level, self._condition(padded, low_res)).mean[", "x["),
        ("σ(λ₀) of the first noise", "alpha_sigma(self.log_snrs[0])[1]", "alpha_sigma(self.log_snrs[0])[0]"),
        ("a classifier's classes are asked of an unlabelled stage", "if self.class_names:", "if config.class_names:"),
    ),
    *mutants("cascade/guides.py", "test_guided_stage.py test_classifier_guided_stage.py",
        ("a stage without labels is told none",
         "denoiser if stage.config.class_names else Unconditional(denoiser)", "denoiser"),
        ("a weak stage answers at its trained levels", "check_aug_level(guide, aug_log_snr)", "None"),
        ("a weak stage is of the same sizes",
         "(guide.resolution, guide.low_resolution) !=", "(guide.resolution, config.low_resolution) !="),
        ("a classifier is of the stage's size", "guide.resolution != config.resolution:", "False:"),
        ("a classifier has the stage's classes",
         "if config.class_names and guide.class_names", "if False and guide.class_names"),
    ),
    *mutants("cascade/guidance_settings.py", "test_guided_stage.py",
        ("the scale of what is guided",
         '{**guidance, "guided": rescaled(guidance["guided"], scale)}', '{**guidance, "scale": scale}'),
        ("without labels no classifier-free guidance",
         'if guidance["name"] == "classifier_free":\n', 'if guidance["name"] == "none":\n'),
        ("an interval of no guidance is none", "inner if inner == NO_GUIDANCE else", "inner if False else"),
    ),
    *mutants("cascade/stage_settings.py", "test_truncated_stage.py test_guided_stage.py",
        ("a stage stops at the noise of the next", "for sampling in samplings[1:]]", "for sampling in samplings[:-1]]"),
        ("only for a truncated one", "sampling.aug_log_snr if sampling.truncated else None", "sampling.aug_log_snr"),
        ("given pictures are finished", "if chosen.start and result[0].truncated:", "if False:"),
        ("parameters change the present choice",
         'if "name" in choice else merged(present, choice)', "if True else None"),
    ),
]
