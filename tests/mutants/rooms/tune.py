"""The mutants of levels in levels of 255, of the probe that finds a start value, and of what a sweep chooses."""

from mutant import Mutant, mutants

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/trained_levels.py", "evaluation/test_probe.py",
        ("127.5·e^{−λ/2}, the level", "return 127.5 * math.exp", "return 255 * math.exp"),
        ("127.5·e^{−λ/2}, the half", "math.exp(-log_snr / 2)", "math.exp(-log_snr)"),
        ("2 ln(127.5/s)", "2 * math.log(127.5 / levels)", "math.log(127.5 / levels)"),
    ),
    *mutants("cascade/evaluation/probe.py", "evaluation/test_probe.py",
        ("P(a > b), not the other", "(first[:, None] > second)", "(first[:, None] < second)"),
        ("½·P(a = b)", ".double() / 2", ".double()"),
        ("the first set scores higher", "logits[:, 0] - logits[:, 1]", "logits[:, 1] - logits[:, 0]"),
        ("who is asked about does not teach", "if i not in (k, (k + 1) % folds)", "if i != (k + 1) % folds"),
        ("the mean of the parts", "auc / folds", "auc"),
        ("the error of a mean of parts", "((len(places) - 1) * folds)", "(len(places) - 1)"),
        ("beyond two errors", "Estimate(0.5)).beyond(2)", "Estimate(0.5)).beyond(0)"),
        ("and nothing noisier", "sorted(aucs)", "sorted(aucs, reverse=True)"),
    ),
    *mutants("cascade/commands/tune_choice.py", "commands/test_tune_choice.py",
        ("nearer is better", "getattr(other, half) - getattr(one, half)", "getattr(one, half) - getattr(other, half)"),
        ("beyond two errors", '"confirming").beyond(2)', '"confirming").beyond(0)'),
        ("the other half confirms", 'present, "confirming")', 'present, "choosing")'),
        ("less its error", "gains[i].value - gains[i].standard_error", "gains[i].value"),
        ("what looks best", "place = max(range", "place = min(range"),
        ("within one error", "half).beyond(1)", "half).beyond(2)"),
        ("as good as the best", "choice.best or present", "present"),
        ("the fewest steps", "min(cheaper, key", "max(cheaper, key"),
        ("fewer steps are no worse on the other half", "for half in HALVES)", 'for half in ["choosing"])'),
        ("the patches of a picture", "group=patches", "group=1"),
    ),
    *mutants("cascade/commands/tune_judge.py", "commands/test_tune_choice.py",
        ("halves, class by class", "sorted(order, key=lambda place: str(classes[place]))", "order"),
    ),
]
