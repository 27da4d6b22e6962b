"""`cascade train`: train a stage, or continue its run."""

import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from stages.processes import Processes


def _check_folders(plain: dict[str, Any], processes: "Processes") -> None:
    """What can be said of the folders without torch and Lightning, whose import takes long."""
    from cascade.data.source import check_source
    from stages.checks import check_run

    check_source(plain["data"], plain["stage"]["resolution"])
    check_run(plain, processes)


def run(config: "DictConfig") -> None:
    """Train the stage of `config`; a run that was stopped by a signal exits with 128 + its number."""
    from cascade.commands.configuration import defaults_of, plain_config
    from stages.checks import check_settings
    from stages.meeting import Meeting
    from stages.processes import Processes

    plain, processes = plain_config(config), Processes.here()
    check_settings(plain, processes.count)
    with Meeting(processes, "command") as meeting:
        _check_folders(plain, processes)
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
