"""`cascade bench`: how fast the ADM U-Net trains and runs here, against diffusers' and this machine's own ceiling."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cascade.commands.reports import refuse_foreign_report, write_report
from cascade.errors import CascadeError
from cascade.files import expanded
from cascade.requests import check_device_name, check_threads

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cascade.commands.bench_networks import Case

_MADE_BY = "cascade bench"
_MOST = {"channels": 4096, "side": 4096, "batch": 4096, "rounds": 1000}
WHAT = ("training", "forward")
MISSING = "diffusers is not installed ('pip install diffusers' puts it beside): this network and the ceiling alone"


def run(config: "DictConfig") -> None:
    """Print the table, and write it to `json` if that is given. See `conf/bench.yaml`."""
    from cascade.commands.configuration import plain_config

    plain: dict[str, Any] = plain_config(config)
    file = None if plain["json"] is None else expanded(plain["json"])
    _check(plain, file)

    import torch

    from cascade.commands.bench_networks import cases
    from cascade.orchestrator import check_device
    from cascade.progress import progress_bars

    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    device = check_device(plain["device"])
    sizes = {key: plain[key] for key in ("channels", "side", "batch")}
    try:
        networks = cases({**sizes, "device": device})
        with progress_bars("rounds") as bars:
            rounds = measured(networks, plain["rounds"], device, lambda done: bars.at("bench", done, plain["rounds"]))
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        given = " ".join(f"{key}={size}" for key, size in sizes.items())
        raise CascadeError(f"{given} do not fit into the memory of {device}; make one of them smaller") from error
    report = _report(networks, rounds, plain)
    if file is not None:
        write_report(file, {"made_by": _MADE_BY, **report})
    _print(report)


def _check(plain: Mapping[str, Any], file: Path | None) -> None:
    for key, most in _MOST.items():
        if not 1 <= plain[key] <= most:
            raise CascadeError(f"{key}={plain[key]} must be at least 1 and at most {most}")
    for key, multiple in (("channels", 32), ("side", 8)):
        if plain[key] % multiple:
            raise CascadeError(f"{key}={plain[key]} must be a multiple of {multiple}")
    if plain["channels"] > 64 and plain["channels"] % 64:
        raise CascadeError(f"channels={plain['channels']} must be a multiple of 64, the width of a head")
    check_threads(plain["threads"])
    check_device_name(plain["device"])
    if file is not None:
        if file.is_dir():
            raise CascadeError(f"json={file} is a folder; name a file")
        refuse_foreign_report(file, _MADE_BY)


def measured(
    networks: "Mapping[str, Case]", rounds: int, device: Any, tell: Callable[[int], Any]
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each of `WHAT` by network and of the "ceiling", a number for each round; all take turns in a round.

    The ceiling is the time of the convolutions, matrix products and attention of the first network alone, each called
    by itself on tensors of the same shapes: what a network made of them takes at least.
    """
    from cascade.commands.bench_networks import Recorded

    clock = _clock(device)
    calls = {}
    for what in WHAT:
        for case in networks.values():
            getattr(case, what)()  # the first call chooses kernels
        with Recorded() as calls[what]:
            getattr(next(iter(networks.values())), what)()
    seconds: dict[str, dict[str, list[float]]] = {what: {name: [] for name in (*networks, "ceiling")} for what in WHAT}
    for number in range(rounds):
        tell(number)
        for what in WHAT:
            for name, case in networks.items():
                seconds[what][name].append(clock(getattr(case, what)))
            seconds[what]["ceiling"].append(calls[what].replay(device, lambda call: _second(clock, call)))
    return seconds


def _second(clock: Callable[[Callable[[], Any]], float], call: Callable[[], Any]) -> float:
    call()
    return clock(call)


def _clock(device: Any) -> Callable[[Callable[[], Any]], float]:
    """Seconds of a call. Of one thread those of the processor, which other programs do not stretch."""
    import torch

    alone = device.type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if alone else time.perf_counter

    def clock(call: Callable[[], Any]) -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize()
        start = now()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return now() - start

    return clock


def row(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians; how many times as fast as diffusers (the median over rounds), and the share of the ceiling.

    >>> row({"cascade": [2.0, 2.0, 2.0], "diffusers": [3.0, 3.0, 9.0], "ceiling": [1.0, 1.0, 1.0]})["times_as_fast"]
    1.5
    """
    ours = seconds["cascade"]
    theirs = seconds.get("diffusers")
    return {
        "seconds": {name: median(times) for name, times in seconds.items()},
        "times_as_fast": None if theirs is None else median(b / a for a, b in zip(ours, theirs, strict=True)),
        "share_of_ceiling": median(least / a for a, least in zip(ours, seconds["ceiling"], strict=True)),
        "every": dict(seconds),
    }


def _report(
    networks: "Mapping[str, Case]", seconds: Mapping[str, Mapping[str, list[float]]], plain: Mapping[str, Any]
) -> dict[str, Any]:
    import torch

    from cascade.machine import device_name

    versions = {"torch": torch.__version__}
    if "diffusers" in networks:
        import diffusers

        versions["diffusers"] = diffusers.__version__
    return {
        "on": device_name(torch.device(plain["device"])),
        "threads": torch.get_num_threads(),
        "versions": versions,
        **{key: plain[key] for key in ("channels", "side", "batch", "rounds")},
        "parameters": {name: case.parameters for name, case in networks.items()},
        **{what: row(seconds[what]) for what in WHAT},
    }


def _print(report: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from cascade.commands.figure_table import wide_console

    threads = "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"
    size = f"{report['channels']} channels, {report['batch']} pictures of {report['side']} px"
    table = Table(title=Text(f"ADM U-Net, {size}, bf16, {report['on']}, {threads}"), title_justify="left")
    for heading in ("", "parameters", *WHAT):
        table.add_column(heading, justify="right" if heading else "left")
    for name, parameters in report["parameters"].items():
        table.add_row(name, f"{parameters / 1e6:.2f} M", *(f"{report[w]['seconds'][name]:.3f} s" for w in WHAT))
    bound = "its convolutions, products and attention alone"
    table.add_row(bound, "", *(f"{report[what]['seconds']['ceiling']:.3f} s" for what in WHAT))
    table.add_row("share of that ceiling", "", *(f"{report[what]['share_of_ceiling']:.2f}" for what in WHAT))
    if "diffusers" in report["parameters"]:
        table.add_row("times as fast as diffusers", "", *(f"{report[what]['times_as_fast']:.2f}" for what in WHAT))
    console = wide_console()
    console.print(table)
    if "diffusers" not in report["parameters"]:
        console.print(MISSING, soft_wrap=True, highlight=False, markup=False)
