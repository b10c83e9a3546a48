"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import app

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "app").rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]

THREADS = "app/runs/executor.py"
# A program of its own, started as a child process: it imports nothing of the gateway's threads.
CHILD = "app/providers/embedded_child.py"
PROGRAMS = ("app/__main__.py", CHILD)
# Passes the environment on to its child process.
SUPERVISOR = "app/providers/embedded_supervisor.py"

_LASTING = {"Lock", "RLock", "Condition", "Event", "Semaphore", "Thread", "Timer", "local", "Queue",
            "ThreadPoolExecutor", "socket", "create_engine", "Flask"}  # fmt: skip


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def imported(name: str) -> Iterator[tuple[str, int]]:
    """Every imported module with its number of leading dots."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def top_packages(name: str) -> set[str]:
    return {module.partition(".")[0] for module, level in imported(name) if level == 0}


def callee(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return ast.unparse(call.func).rpartition(".")[2]


def run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below ``node`` but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, child.args):
                yield from (part, *run_at_import(part))
        elif not isinstance(child, ast.Lambda):
            yield child
            yield from run_at_import(child)


def test_the_public_names_are_sorted_and_exist() -> None:
    assert app.__all__ == sorted(app.__all__)
    for name in app.__all__:
        assert getattr(app, name).__doc__, name


def test_every_list_of_public_names_is_sorted_and_exists() -> None:
    for name in NAMES:
        if name in PROGRAMS:
            continue
        module = importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        public = getattr(module, "__all__", [])
        assert public == sorted(public), name
        assert [one for one in public if not hasattr(module, one)] == [], name


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}

    expected = {".".join(("openclaw_gateway", *folder.parts[1:])) for folder in folders}

    assert set(settings["packages"]) == expected
    assert settings["packages"] == sorted(settings["packages"])
    assert settings["package-dir"] == {"openclaw_gateway": "app"}


def test_every_folder_with_code_is_a_package() -> None:
    assert [name for name in NAMES if not (ROOT / name).with_name("__init__.py").exists()] == []


def test_imports_inside_the_gateway_are_relative() -> None:
    assert [name for name in NAMES if top_packages(name) & {"app", "openclaw_gateway"}] == []


def test_nothing_knows_which_server_it_runs_under() -> None:
    assert [name for name in NAMES if top_packages(name) & {"gevent", "gunicorn", "greenlet"}] == []


def test_flask_stays_in_the_channels() -> None:
    inner = ("runs", "agents", "tools", "providers", "sessions", "config")
    pure = [n for n in NAMES if n.split("/")[1] in inner or n.endswith(("schema.py", "chunks.py"))]

    assert len(pure) > len(inner)
    assert [name for name in pure if top_packages(name) & {"flask", "werkzeug"}] == []


def test_only_the_executor_starts_threads() -> None:
    def starts_threads(name: str) -> bool:
        calls = {callee(node) for node in ast.walk(tree(name)) if isinstance(node, ast.Call)}
        return bool(calls & {"Thread", "Timer", "ThreadPoolExecutor"})

    assert [name for name in NAMES if starts_threads(name)] == [CHILD, THREADS]


def test_only_the_edge_reads_the_environment() -> None:
    def reads_environment(name: str) -> bool:
        used = {ast.unparse(node) for node in ast.walk(tree(name)) if isinstance(node, ast.Attribute)}
        return bool(used & {"os.environ", "os.environb", "os.getenv", "os.putenv"})

    edge = ("app/factory.py", "app/extension.py", CHILD, SUPERVISOR)
    inner = [name for name in NAMES if name not in edge and not name.startswith("app/cli/")]

    assert [name for name in inner if reads_environment(name)] == []
    assert reads_environment("app/extension.py")


def test_nothing_that_lives_is_made_at_import() -> None:
    def made(name: str) -> set[str]:
        return {callee(node) for node in run_at_import(tree(name)) if isinstance(node, ast.Call)} & _LASTING

    assert {name: made(name) for name in NAMES if made(name)} == {}


def test_importing_the_gateway_starts_nothing() -> None:
    program = "import threading, app, app.cli; print(threading.active_count())"

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (result.stdout, result.stderr) == ("1\n", "")


def test_no_test_uses_a_mock_library() -> None:
    tests = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("*.py"))]

    assert [name for name in tests if any("mock" in module for module, _ in imported(name))] == []
