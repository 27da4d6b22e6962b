"""`cascade explain`: what a config trains and how its sampler does, as figures and numbers, without training."""

from typing import TYPE_CHECKING, Any

from cascade.commands.reports import check_out, write_report
from cascade.errors import CascadeError
from cascade.files import expanded
from cascade.lock import exclusive

if TYPE_CHECKING:
    from omegaconf import DictConfig

REPORT, LEVELS, CERTIFICATE = "explain.json", "noise_levels.png", "certificate.png"
_MADE_BY = "cascade explain"


def run(config: "DictConfig") -> None:
    """Write the report and the two figures into `out`; nothing is written before everything is made."""
    from omegaconf import OmegaConf

    if not config.steps or min(config.steps) < 1:
        raise CascadeError(f"steps={list(config.steps)}: lengths of grids, for example steps=[4,8,16]")
    if config.picture < 0:
        raise CascadeError(f"picture={config.picture} must be at least 0")
    out = expanded(config.out)
    check_out(out, REPORT, _MADE_BY, [LEVELS, CERTIFICATE])

    from cascade.commands.explain_certificate import certificates
    from cascade.commands.explain_certificate_figure import draw_certificates
    from cascade.commands.explain_levels import noise_levels
    from cascade.commands.explain_levels_figure import draw_levels
    from cascade.files import write_whole

    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)
    with exclusive(out):
        levels = noise_levels(plain)
        report = {"made_by": _MADE_BY, "config": levels.config, **levels.report(), "certificate": None}
        figures, lines = {LEVELS: draw_levels(levels)}, levels.summary()
        if levels.grid is None:
            lines.append(
                "certificate: none, a classifier is not sampled; give sampler and grid to see theirs beside it"
            )
        else:
            certified = certificates(levels.trained.config, levels.bands, levels.data, levels.trained.note)
            report["certificate"] = certified.report()
            figures[CERTIFICATE] = draw_certificates(certified)
            lines += certified.summary()
        write_report(out / REPORT, report)
        for name, png in figures.items():
            write_whole(out / name, png)
        if CERTIFICATE not in figures:  # one that stands there is ours, and of another config
            (out / CERTIFICATE).unlink(missing_ok=True)
    for line in [*lines, *(str(out / name) for name in (*figures, REPORT))]:
        print(line)
