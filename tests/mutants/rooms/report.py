"""The mutants of `cascade report`: what is seen along the steps, what is nearest, and where a chart puts its points."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/commands/report_steps.py", "commands/test_report.py",
        ("the guess is the mean", "_small(mean), _middle", "_small(x_t), _middle"),
        ("the middle of a large guess", "slice((side - SHOWN) // 2", "slice(0"),
        ("the posterior goes through", "return posterior\n", "return Posterior(posterior.mean / 2)\n"),
        ("the pictures of the stage before", "images = torch.cat(made)", "images = torch.cat(made).flip(-1)"),
    ),
    *mutants("cascade/commands/report_chart.py", "commands/test_report_chart.py",
        ("a logarithmic axis", "value = math.log10(value) if self.log else value", "value = float(value)"),
    ),
    *mutants("cascade/commands/photographs.py", "evaluation/test_nearest_neighbours.py",
        ("mirrored ones were trained on too", "nearest(turned(of), trained[0])", "nearest(of, trained[0])"),
    ),
]
