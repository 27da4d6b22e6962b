"""`cascade card`: the model card of a cascade, composed of what other commands measure, each figure with its own."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade import __version__
from cascade.artifact import find_cascade, load_cascade_config, load_chain
from cascade.commands.evaluate import check_evaluation, open_metrics
from cascade.commands.evaluated_sides import Sides
from cascade.commands.evaluation_features import features_of
from cascade.commands.evaluation_report import report_of
from cascade.commands.named_protocol import under_protocol
from cascade.commands.per_stage import extra_keys
from cascade.commands.reports import check_out, read_report, write_report
from cascade.commands.training_curves import draw_curves, read_curve
from cascade.commands.written import shell_line, written
from cascade.errors import CascadeError, suggest
from cascade.files import expanded, write_whole
from cascade.guidance_settings import guides_of
from cascade.lock import exclusive

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from cascade.artifact import Stage
    from cascade.classifier import Classifier
    from cascade.progress import Bars

__all__ = ["extra_keys", "run"]

REPORT, CARD = "card.json", "card.md"
_MADE_BY = "cascade card"
FIGURE = "curves.png"
_OF_CARD = ("about", "limits", "reports", "curves", "stages", "out", "cascade")
_OF_EVALUATION = ("metrics", "data.split", "num_images", "allow_few_images")
"""Keys whose defaults here are not those of `cascade evaluate`."""


def run(config: "DictConfig") -> None:
    """Measure after each stage, and write the card. See `conf/card.yaml`."""
    from hydra.core.hydra_config import HydraConfig

    from cascade.commands.configuration import plain_config

    plain: dict[str, Any] = plain_config(config)
    out = expanded(plain["out"])
    evaluations = _checked(plain, out)
    given = written(HydraConfig.get().overrides.task)
    names = [stage.name for stage in load_chain(plain["cascade"])]
    curves = [read_curve(path) for path in plain["curves"]]
    import torch

    from cascade.commands.card_text import card_text
    from cascade.progress import progress_bars

    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    with exclusive(out), progress_bars() as bars:
        report = {
            "made_by": _MADE_BY,
            "cascade": plain["cascade"],
            "recipe": _recipe(plain["cascade"]),
            "about": _text(plain["about"]),
            "evaluations": {
                name: {"command": _command(asked, given, names[asked["stages"] :]), **_evaluated(asked, out, bars)}
                for name, asked in evaluations.items()
            },
            "reports": [_report(file) for file in plain["reports"]],
            "tuned": load_cascade_config(plain["cascade"]).tuned,
            "curves": [curve.to_json() for curve in curves],
            "limits": _text(plain["limits"]),
            "version": __version__,
        }
        write_report(out / REPORT, report)
        if curves:
            write_whole(out / FIGURE, draw_curves(curves))
        write_whole(out / CARD, card_text(report))
    print(f"{out / CARD}\n{out / REPORT}")


def _checked(plain: Mapping[str, Any], out: Path) -> dict[str, dict[str, Any]]:
    """What is asked of `cascade evaluate` after each stage, by its name; all that can be said without torch."""
    from cascade.commands.photographs import sheet_of

    configs = load_chain(plain["cascade"])
    counts = plain["stages"] if plain["stages"] is not None else list(range(1, len(configs) + 1))
    if not counts or sorted(set(counts)) != counts:
        raise CascadeError(f"stages={counts}: name one or more numbers of stages, rising")
    found = {}
    for count in counts:
        running = [config.name for config in configs[:count]]
        settings = {name: own for name, own in plain["per_stage"].items() if name in running}
        evaluation = {**plain, "stages": count, "per_stage": settings}
        check_evaluation(under_protocol(evaluation))
        found[configs[count - 1].name] = evaluation
    for key in ("about", "limits"):
        if plain[key] is not None and not expanded(plain[key]).is_file():
            raise CascadeError(f"{key}={plain[key]} is no file; give one of Markdown")
        _text(plain[key])
    for file in plain["reports"]:
        _report(file)
    for curve in map(read_curve, plain["curves"]):
        if curve.stage not in (names := [config.name for config in configs]):
            raise CascadeError(
                f"curves are named by their stages, and '{curve.stage}' is none; {suggest(curve.stage, names)}"
            )
    check_out(out, REPORT, _MADE_BY, [FIGURE, *(sheet_of(configs[count - 1].resolution) for count in counts)])
    if (out / CARD).exists() and not (out / REPORT).exists():
        raise CascadeError(f"{out / CARD} was not made by {_MADE_BY}; choose another out, or move it away")
    return found


def _evaluated(evaluation: Mapping[str, Any], out: Path, bars: "Bars") -> dict[str, Any]:
    """The report of `cascade evaluate` with these settings; its samples and pictures lie in `out`."""
    plain = under_protocol(evaluation)
    opened = open_metrics(Sides(plain, out, bars), features_of(plain, bars))
    return report_of(plain, [measure() for measure in opened])


def _command(evaluation: Mapping[str, Any], given: Mapping[str, str], others: Collection[str]) -> str:
    """The `cascade evaluate` that makes the figures again: what was asked here, and what is the default here alone.

    `others` are stages that do not run yet, whose settings do not belong to it.
    """
    from omegaconf import OmegaConf

    from cascade.commands.configuration import flattened

    now = flattened(OmegaConf.create({key: value for key, value in evaluation.items() if key != "per_stage"}))
    words = {key: _word(now[key]) for key in ("cascade", "stages", *_OF_EVALUATION)}
    own = {key: text for key, text in given.items() if key not in _OF_CARD and key.split(".")[0] not in others}
    return shell_line("evaluate", {**words, **own, "out": evaluation["out"]})


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _recipe(cascade: str) -> list[dict[str, Any]]:
    """What each stage says of itself, how it is sampled here, and what guides it."""
    from cascade.artifact import load_stage
    from cascade.guides import load_guide
    from cascade.registry import build

    folder, rows = find_cascade(cascade), []
    for name, sampling in load_cascade_config(cascade).stages:
        stage = load_stage(folder / name)
        described = {
            key: value for key, value in stage.config.to_mapping().items() if key not in ("schema", "sampling")
        }
        asked = {place: load_guide(kind, str(folder / place)) for kind, place in guides_of(sampling)}
        rows.append(
            {
                **described,
                **_size(stage.denoiser, folder / name),
                "sha256": stage.sha256,
                "sampler": sampling.sampler,
                "steps": len(build("grid", sampling.grid)) - 1,
                "grid": sampling.grid,
                "guidance": sampling.guidance,
                "guides": [_guide(place, guide, folder) for place, guide in asked.items()],
                "aug_log_snr": None if sampling.aug_log_snr is None else str(sampling.aug_log_snr),
            }
        )
    return rows


def _guide(place: str, guide: "Stage | Classifier", folder: Path) -> dict[str, Any]:
    from cascade.classifier import Classifier

    network = guide.network if isinstance(guide, Classifier) else guide.denoiser
    said = {"network": guide.config.network, "images_seen": guide.config.images_seen, "sha256": guide.sha256}
    return {"name": place, **said, **_size(network, folder / place)}


def _size(network: "nn.Module", folder: Path) -> dict[str, int]:
    count = sum(parameter.numel() for parameter in network.parameters())
    return {"parameters": count, "bytes": sum(file.stat().st_size for file in folder.iterdir())}


def _report(file: str) -> dict[str, Any]:
    """A report of another command that belongs into a card."""
    from cascade.commands.card_reports import KINDS, report_lines

    for made_by in KINDS:
        if (report := read_report(expanded(file), made_by)) is not None:
            try:
                list(report_lines([report]))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CascadeError(f"reports: {file} is of another version ({error!r}); make it again") from error
            return report
    raise CascadeError(f"reports: {file} is no report; give a file of {', '.join(KINDS)}")


def _text(file: str | None) -> str | None:
    try:
        return None if file is None else expanded(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise CascadeError(f"{file} is no text in UTF-8; save it as that") from error
