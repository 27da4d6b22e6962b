"""What the system says of itself, and what is said where it does not."""

import platform

import pytest

from cascade import machine

CPUINFO = "processor\t: 0\nvendor_id\t: Maker\nmodel name\t: Maker's 5: fast\n\nprocessor\t: 1\nmodel name\t: other\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [(CPUINFO, "Maker's 5: fast"), ("processor\t: 0\nCPU implementer\t: 0x41\n", "an ARM"), (None, "an ARM")],
)
def test_a_processor_has_a_name_where_the_system_tells_none(tmp_path, monkeypatch, text, name):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_PROCESSOR", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "an ARM")
    assert machine.processor() == name


def test_memory_is_the_machines_or_less_where_a_group_is_limited(tmp_path, monkeypatch):
    memory, group = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_MEMORY", memory)
    monkeypatch.setattr(machine, "_CGROUPS", (group,))
    assert machine.total_memory() is None
    memory.write_text("MemTotal:       16384 kB\nMemFree:        1 kB\n")
    assert machine.total_memory() == 16384 * 1024
    for limit, total in (("max", 16384 * 1024), ("4096", 4096), (str(1 << 60), 16384 * 1024)):
        group.write_text(f"{limit}\n")
        assert machine.total_memory() == total
