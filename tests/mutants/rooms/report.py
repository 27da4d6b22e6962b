"""The mutants of `cascade report`: what is seen along the steps, what is nearest, and where a chart puts its points."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/commands/report_steps.py", "commands/test_report.py",
        ("the guess is the mean", "_small(mean[: len(paths)])", "_small(x_t[: len(paths)])"),
        ("the posterior goes through", "return posterior\n", "return Posterior(posterior.mean / 2)\n"),
        ("the pictures of the stage before", "images = torch.cat(made)", "images = torch.cat(made).flip(-1)"),
    ),
    *mutants("cascade/commands/report_chart.py", "commands/test_report_chart.py",
        ("a logarithmic axis", "value = math.log10(value) if self.log else value", "value = float(value)"),
    ),
    *mutants("cascade/commands/report_nearest.py", "commands/test_report.py",
        ("mirrored ones were trained on too", "mirrored(of[0], trained[0], side)", "nearest(of[0], trained[0])"),
    ),
]
