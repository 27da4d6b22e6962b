"""`cascade train`: train a stage, or continue its run."""

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig


def check_sweep(jobs: "Sequence[tuple[str, DictConfig]]") -> None:
    """Refuse a sweep for the first of its jobs that cannot be run, before any is; a job comes with how it differs."""
    from cascade.commands.configuration import plain_config
    from cascade.processes import Processes
    from stages.checks import check_settings
    from stages.distill_settings import completed
    from stages.sweep import check_all_folders, check_jobs

    processes = Processes.here()
    given = [(label, plain_config(config)) for label, config in jobs]
    check_jobs(given, completed)
    plain = [(label, completed(config)) for label, config in given]
    check_jobs(plain, lambda config: check_settings(config, processes.count))
    check_all_folders(plain)
    from stages.parts import check_parts

    check_jobs(plain, check_parts)


def run(config: "DictConfig") -> None:
    """Train the stage of `config`; a run that was stopped by a signal exits with 128 + its number."""
    from cascade.commands.configuration import defaults_of, plain_config
    from cascade.processes import Processes
    from stages.checks import check_folders, check_place_of, check_settings
    from stages.distill_settings import completed
    from stages.meeting import Meeting

    plain, processes = completed(plain_config(config)), Processes.here()
    check_settings(plain, processes.count)
    with Meeting(processes, "command") as meeting:
        check_folders(plain)
        if processes.is_first:
            check_place_of(plain)
        from stages.machine import check_machine
        from stages.parts import check_parts

        check_machine(plain["trainer"], processes)
        check_parts(plain)
        meeting.agree()
    from hydra.core.hydra_config import HydraConfig

    from stages.run import train
    from stages.run_folder import RunFolder

    def tell(line: str) -> None:
        if processes.is_first:
            print(line, flush=True)

    defaults = defaults_of("train", HydraConfig.get().runtime.choices, RunFolder.of(plain).stored() or {})
    outcome = train(plain, tell, defaults)
    if outcome.stopped_by is not None:
        tell(f"stopped at step {outcome.step} by {signal.Signals(outcome.stopped_by).name}; the same command continues")
        raise SystemExit(128 + outcome.stopped_by)
    already = "was already" if outcome.resumed_from == outcome.step else "is"
    tell(f"the run {already} finished at step {outcome.step}; its stage is {outcome.folder / 'stage'}")
