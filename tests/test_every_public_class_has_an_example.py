"""Every public class of the library's rooms has an example in its docstring; pytest runs them (--doctest-modules)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade import registry

LIBRARY = Path(__file__).resolve().parents[1] / "cascade"
ROOMS = ("diffusion", "sampling", "networks", "evaluation", "data", "importers")


def public_classes(room: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """Those that can be made: a protocol says what others are, and has no example of its own."""
    for path in sorted((LIBRARY / room).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            public = isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            if public and "Protocol" not in {ast.unparse(base) for base in node.bases}:
                yield path.name, node


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_class_has_an_example_that_is_run(room: str) -> None:
    classes = list(public_classes(room))
    assert classes
    without = [f"{file}: {node.name}" for file, node in classes if ">>> " not in (ast.get_docstring(node) or "")]
    assert without == []


def test_what_the_library_itself_exports_has_an_example_too() -> None:
    import cascade

    exported = [getattr(cascade, name) for name in cascade.__all__]
    assert exported
    assert all(">>> " in (thing.__doc__ or "") for thing in exported if isinstance(thing, type))


def test_what_is_found_is_what_the_rooms_export() -> None:
    """The classes in `__all__` are among them."""
    import cascade.diffusion
    import cascade.networks
    import cascade.sampling

    for room in (cascade.diffusion, cascade.networks, cascade.sampling):
        found = {node.name for _, node in public_classes(room.__name__.rpartition(".")[2])}
        exported = {name for name in room.__all__ if isinstance(getattr(room, name), type)}
        protocols = {name for name in exported if getattr(getattr(room, name), "_is_protocol", False)}
        assert exported - protocols <= found


def test_a_class_that_a_config_can_name_is_exported_by_its_room() -> None:
    """So that whoever reads a config finds the class where its room is imported."""
    import cascade.diffusion
    import cascade.sampling

    for room in (cascade.diffusion, cascade.sampling):
        rows = [row.split(":") for names in registry.TABLE.values() for row in names.values()]
        named = {name for module, name in rows if module.startswith(room.__name__) and name[0].isupper()}
        assert named
        assert named <= set(room.__all__)
