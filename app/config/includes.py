"""Reading configuration files and what they `$include`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .json5 import InvalidJson5, parse

_KEY = "$include"
_MAX_DEPTH = 10


@dataclass
class Reader:
    """Reads a file with its includes; what goes wrong is added to ``problems``, what is read to ``files``."""

    problems: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def read(self, path: Path) -> object:
        """The value in ``path``, includes resolved; {} where a file is unusable."""
        return self._read(path, (), str(path))

    def resolve(self, value: object, chain: tuple[Path, ...] = ()) -> object:
        """``value`` with its includes; ``chain`` is the way to the file it comes from."""
        if isinstance(value, list):
            return [self.resolve(item, chain) for item in value]
        if not isinstance(value, dict):
            return value
        siblings = {key: self.resolve(item, chain) for key, item in value.items() if key != _KEY}
        if _KEY not in value:
            return siblings
        return self._include(value[_KEY], siblings, chain)

    def _include(self, wanted: object, siblings: dict[object, object], chain: tuple[Path, ...]) -> object:
        if isinstance(wanted, str):
            included = self._load(wanted, chain)
        elif isinstance(wanted, list) and wanted and all(isinstance(name, str) for name in wanted):
            included = {}
            for name in wanted:
                included = merge(included, self._load(str(name), chain))
        else:
            self.problems.append(f"{_KEY} must be a file name or a list of file names")
            return siblings
        if siblings and not isinstance(included, dict):
            self.problems.append(f"{_KEY} {wanted!r} has keys beside it, so the file must hold an object")
            return siblings
        return merge(included, siblings) if siblings else included

    def _load(self, name: str, chain: tuple[Path, ...]) -> object:
        if not chain and not Path(name).is_absolute():
            self.problems.append(
                f"{_KEY} {name!r}: a relative name needs a configuration file to be relative to"
            )
            return {}
        try:
            path = (chain[-1].parent / name if chain else Path(name)).resolve()
        except (OSError, RuntimeError, ValueError):  # a link to itself, a null byte
            self.problems.append(f"{_KEY} {name!r}: cannot be read (not a file name)")
            return {}
        if path in chain:
            way = " -> ".join(str(step) for step in (*chain[chain.index(path) :], path))
            self.problems.append(f"{_KEY} {name!r}: the files include each other: {way}")
            return {}
        if len(chain) > _MAX_DEPTH:
            self.problems.append(f"{_KEY} {name!r}: includes are nested more than {_MAX_DEPTH} deep")
            return {}
        return self._read(path, chain, f"{_KEY} {name!r} (resolved to {path})")

    def _read(self, path: Path, chain: tuple[Path, ...], label: str) -> object:
        self.files.append(path)
        try:
            value = parse(path.read_text(encoding="utf-8-sig"))
        except InvalidJson5 as error:
            self.problems.append(f"{label}: {error}")
        except UnicodeDecodeError:
            self.problems.append(f"{label}: the file is not UTF-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            self.problems.append(f"{label}: cannot be read ({(reason or 'not a file name').lower()})")
        else:
            return self.resolve(value, (*chain, path.resolve()))
        return {}


def merge(base: object, over: object) -> object:
    """``over`` laid on ``base``: objects merge key by key, lists join, else ``over`` wins."""
    if isinstance(base, dict) and isinstance(over, dict):
        both = {key: merge(base[key], over[key]) for key in over if key in base}
        return {**base, **over, **both}
    if isinstance(base, list) and isinstance(over, list):
        return base + over
    return over
