"""`cascade train`: train a stage, or continue its run."""

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(config: "DictConfig") -> None:
    """Train the stage of `config`; a run that was stopped by a signal exits with 128 + its number."""
    from omegaconf import OmegaConf

    from cascade.data.source import check_source
    from stages.checks import check_settings
    from stages.processes import Processes

    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    processes = Processes.here()
    # Before torch and Lightning are imported, which takes longer than anybody wants to wait for a line.
    check_settings(plain, processes.count)
    check_source(plain["data"], plain["stage"]["resolution"])
    from stages.machine import check_machine
    from stages.parts import check_parts

    check_machine(plain["trainer"], processes)
    check_parts(plain)
    from stages.run import train

    def tell(line: str) -> None:
        if processes.is_first:
            print(line, flush=True)

    outcome = train(plain, tell)
    if outcome.stopped_by is not None:
        tell(f"stopped at step {outcome.step} by {signal.Signals(outcome.stopped_by).name}; the same command continues")
        raise SystemExit(128 + outcome.stopped_by)
    already = "was already" if outcome.resumed_from == outcome.step else "is"
    tell(f"the run {already} finished at step {outcome.step}; its stage is {outcome.folder / 'stage'}")
