"""The house keeps its shape: who imports whom, what stays light, and what never shadows another package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trieline"

# No cycles, and every arrow points down. A room may import itself, the rooms named here, and `GROUND`.
GROUND = "trieline.common"
LEARNER_FLOORS = {
    "intake": set(),
    "batch": {"intake"},
    "model_folder": set(),
    "model": {"batch", "model_folder"},
    "objective": {"batch"},
    "ranks": set(),
    "update": {"batch", "model", "objective", "ranks"},
    "keeping": {"model_folder", "ranks"},
    "policy_server.decoders": {"model_folder", "keeping"},
    "policy_server.batching": {"policy_server.decoders", "model_folder", "keeping"},
    "policy_server.cpu": {"policy_server.batching", "policy_server.decoders"},
    "policy_server.gpu": {"policy_server.batching", "policy_server.decoders"},
    "policy_server.foreign": {"policy_server.batching", "model", "model_folder", "keeping"},
    "policy_server": {
        *(f"policy_server.{part}" for part in ("decoders", "batching", "cpu", "gpu", "foreign")),
        *("model", "model_folder", "keeping"),
    },
}
MAY_IMPORT = {
    "trieline.kernels": set(),
    "trieline.common": set(),
    "trieline.envs": set(),
    "trieline.wire": set(),
    "trieline.actors": {"trieline.wire", "trieline.envs"},
    "trieline.learner": {
        "trieline.wire",
        "trieline.kernels",
        *(f"trieline.learner.{f}" for f in LEARNER_FLOORS),
    },
    **{
        f"trieline.learner.{floor}": {
            "trieline.wire",
            "trieline.kernels",
            *(f"trieline.learner.{f}" for f in below),
        }
        for floor, below in LEARNER_FLOORS.items()
    },
    "trieline.recipes": set(),
    "trieline.sandbox_images": set(),
}
# What every floor of the learner stands on, beside the rooms below it.
LEARNER_SETTINGS = {
    "trieline.learner.errors",
    "trieline.learner.config",
    "trieline.learner.objective_config",
    "trieline.learner.policy_server.config",
    "trieline.learner.policy_server.engine",
    "trieline.learner.policy_server.errors",
    "trieline.learner.policy_server.request_checks",
}
MOST_LINES = 400
MOST_FUNCTION_LINES = 60
WITHOUT_TORCH = (
    "trieline.learner.intake",
    "trieline.learner.batch",
    "trieline.learner.settings",
    *LEARNER_SETTINGS,
)
TORCH_ROOMS = ("trieline.learner", "trieline.kernels")
ONLY_HERE = {
    "zmq": ("trieline.wire",),
    "docker": ("trieline.envs.sandbox",),
    "llguidance": ("trieline.learner.policy_server",),
    "torch": TORCH_ROOMS,
    "transformers": TORCH_ROOMS,
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def room_of(module: str) -> str | None:
    rooms = [room for room in MAY_IMPORT if module == room or module.startswith(room + ".")]
    return max(rooms, key=len, default=None)


def test_there_is_something_to_check() -> None:
    assert {room_of(name) for name, _ in modules()} >= set(MAY_IMPORT) - {"trieline.sandbox_images"}


def test_every_arrow_points_down() -> None:
    wrong = []
    for name, path in modules():
        room = room_of(name)
        if room is None:
            continue
        for imported in imports_of(path):
            if not imported.startswith("trieline"):
                continue
            target = room_of(imported) or imported
            settings = room.startswith("trieline.learner.") and imported in LEARNER_SETTINGS
            if target not in {room, GROUND, *MAY_IMPORT[room]} and not settings:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_a_batch_is_made_without_torch() -> None:
    names = [name for name, _ in modules() if name.startswith(WITHOUT_TORCH)]
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert set(names) <= loaded
    assert {"torch", "transformers"}.isdisjoint(loaded)


def test_heavy_libraries_stay_in_their_rooms() -> None:
    wrong = []
    for name, path in modules():
        for imported in imports_of(path):
            rooms = ONLY_HERE.get(imported.split(".")[0])
            launcher_probe = name == "trieline.launcher.machine_checks"  # looks at what is installed
            if rooms and not name.startswith(rooms) and not launcher_probe:
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def loaded_by(code: str) -> set[str]:
    code += "\nimport sys\nprint('\\n'.join(sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.split()
    )


def test_actors_and_environments_load_no_torch() -> None:
    names = [name for name, _ in modules() if name.startswith(("trieline.actors", "trieline.envs"))]
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert set(names) <= loaded
    assert {"torch", "transformers"}.isdisjoint(loaded)


def test_help_imports_nothing_heavy() -> None:
    loaded = loaded_by("from trieline.command_line import build_parser\nbuild_parser().format_help()")
    assert {"torch", "transformers", "numpy", "zmq", "gymnasium", "rich", "docker"}.isdisjoint(loaded)


def test_transformers_models_import_from_the_checkout() -> None:
    # The folder `kernels` at the top must not pass for Hugging Face's package of that name.
    loaded = loaded_by(
        "import sys\nsys.path.insert(0, '')\nfrom transformers import LlamaForCausalLM, Qwen3ForCausalLM"
    )
    assert "transformers.models.llama.modeling_llama" in loaded


@pytest.mark.parametrize("room", ["envs", "actors", "learner", "kernels", "sandbox_images"])
def test_the_rooms_open_from_the_top(room: str) -> None:
    link = ROOT / room
    assert link.is_symlink()
    assert link.resolve() == PACKAGE / room


def test_no_room_is_too_large_to_be_seen_at_a_glance() -> None:
    long = []
    for name, path in modules():
        text = path.read_text()
        if len(text.splitlines()) > MOST_LINES:
            long.append(f"{name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            is_kernel = name.startswith("trieline.kernels.gpu")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_kernel:
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    long.append(f"{name}.{node.name}: {lines} lines")
    assert long == []


def test_kernels_is_no_regular_package() -> None:
    assert not (PACKAGE / "kernels" / "__init__.py").exists()


def test_the_devices_of_the_kernels_import_nothing_from_above() -> None:
    # The public functions choose between cpu/ and gpu/, which know neither them nor each other.
    wrong = []
    for name, path in modules():
        own = next((r for r in ("trieline.kernels.cpu", "trieline.kernels.gpu") if name.startswith(r)), None)
        for imported in imports_of(path) if own else ():
            if imported.startswith("trieline") and not imported.startswith(f"{own}."):
                wrong.append(f"{name} imports {imported}")
    assert wrong == []
