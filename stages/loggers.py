"""Where the metrics of a run go: the CSV file always, W&B where it is asked for."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger

from stages.metrics import MetricsCSV
from stages.run_folder import RunFolder


def build_loggers(config: Mapping[str, Any], run: RunFolder, start: int) -> list[Logger]:
    """Return the loggers of a run that goes on at step `start`.

    `logger: {wandb: true, mode: offline, project: ...}` adds W&B. Its mode is decided before the first init: after a
    failed online one, offline in the same process hangs. Its run is that of the folder: a resumed run continues it, a
    fresh one of the same name begins another.
    """
    rows = MetricsCSV(run.path)
    rows.resume(start)
    settings = config["logger"]
    if not settings["wandb"]:
        return [rows]
    from lightning.pytorch.loggers import WandbLogger

    return [
        rows,
        WandbLogger(
            name=f"{config['name']}-{config['stage']['name']}",
            id=run.run_id,
            project=settings["project"],
            save_dir=run.path,
            offline=settings["mode"] == "offline",
            resume="allow" if settings["mode"] == "online" else None,
            config=dict(config),
        ),
    ]


def close_loggers(loggers: list[Logger]) -> None:
    """End what the loggers have begun: a sweep trains the next stage in the same process, as another W&B run."""
    for logger in loggers:
        if not isinstance(logger, MetricsCSV):
            logger.experiment.finish()
