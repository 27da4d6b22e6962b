"""The walls of the house: who may import whom, how long a module is, and what lies at the top level."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p for room in ("cascade", "stages", "conf") for p in (ROOT / room).rglob("*.py"))
WRITTEN = [*MODULES, *sorted(p for end in ("py", "yaml") for p in (ROOT / "tests").rglob(f"*.{end}"))]
WRITTEN += [*sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "README.md", ROOT / "Makefile"]
TOP_LEVEL = {"pyproject.toml", "cascade", "conf", "stages", "tests", "Makefile", "README.md", "LICENSE"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[1].removesuffix(".py") if path.parts[-2] != "stages" else "stages"


OUTER = {"orchestrator", "CascadePipeline", "commands", "__main__"}  # above all other rooms; __main__ runs the commands
# What of cascade/ each room may use beside itself: every folder but the commands, and the modules that these rest on.
USES = {
    "diffusion": {"errors", "rng", "trained_levels"},
    "networks": {"errors"},
    "sampling": {"diffusion", "errors"},
    "data": {"class_tables", "errors", "files", "registry", "rng"},
    "evaluation": {"data", "diffusion", "errors", "files", "full_float32", "plain_json", "rng"},
    "importers": {"artifact", "classifier", "diffusion", "errors", "files", "registry", "sampling"},
    "artifact": {"class_tables", "classifier", "distilled", "errors", "files", "networks", "registry", "stage_files"},
    "classifier": {"artifact", "diffusion", "errors", "registry", "stage_files"},
    "stage_files": {"errors", "files"},
    "class_tables": {"errors"},
    "trained_levels": {"errors"},
    "registry": {"errors"},
    "files": {"errors", "lock"},
    "lock": {"errors"},
    "plain_json": set(),
    "errors": set(),
    "full_float32": set(),
    "rng": set(),
}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_run_downward_only(path: Path) -> None:
    used = imports(path)
    here = room(path)
    others = {name.split(".")[1] for name in used if name.startswith("cascade.")} - {here, "__version__"}
    if here not in ("commands", "__main__"):
        assert not others & OUTER
    if path.is_relative_to(ROOT / "cascade"):
        assert others <= USES.get(here, others), f"{here} knows nothing of {', '.join(others - USES[here])}"
        if here != "commands":
            assert not {name.split(".")[0] for name in used} & {"lightning", "hydra", "omegaconf", "wandb", "stages"}
        elif path.name != "train.py":
            assert not any(name.split(".")[0] == "stages" for name in used)
    assert not any(name.split(".")[0] == "tests" for name in used)


def test_every_room_is_walled() -> None:
    rooms = {path.parent.name for path in (ROOT / "cascade").glob("*/__init__.py")}
    assert rooms - {"commands"} <= set(USES)
    assert all((ROOT / "cascade" / name).is_dir() or (ROOT / f"cascade/{name}.py").is_file() for name in USES)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in {"utils", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_global_generator_is_drawn_from(path: Path) -> None:
    """Outside the fork that seeds a network's weights, a random number is made from a named generator only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, keywords = ast.unparse(node.func), {k.arg for k in node.keywords}
            if name in {"torch.randn", "torch.rand", "torch.randint", "torch.randperm", "torch.multinomial"}:
                assert "generator" in keywords, f"{path}:{node.lineno} {name} without a generator"
            own = path.name == "rng.py" and name in {"np.random.Generator", "np.random.Philox"}
            foreign = name.startswith(("np.random.", "numpy.random.", "random."))
            assert own or not foreign, f"{path}:{node.lineno} {name}"
            seeds = name in {"torch.manual_seed", "torch.seed", "torch.cuda.manual_seed_all"}
            assert not seeds or path.name == "assembly.py", f"{path}:{node.lineno} {name}"


def test_the_top_level_holds_only_what_the_owner_fixed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_importing_the_library_is_light() -> None:
    code = "import sys, cascade; print(sorted({'torch', 'lightning', 'hydra', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
