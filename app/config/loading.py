"""From a file, a mapping or nothing to one validated snapshot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError
from ..wire import clean
from .gateway import GatewayConfig
from .includes import Reader
from .json5 import InvalidJson5, parse
from .observing import with_log_variables
from .problems import describe
from .schema import Config, Document
from .state import with_engines
from .substitution import Substitution, known_values
from .unserved import without_unserved
from .variables import blame, with_variables

_INLINE = "OPENCLAW_CONFIG_JSON"
_SECRETS = {"token": "OPENCLAW_GATEWAY_TOKEN", "password": "OPENCLAW_GATEWAY_PASSWORD"}


def load_config(
    source: Mapping[str, object] | str | os.PathLike[str] | None,
    env: Mapping[str, str],
    *,
    require_auth: bool = True,
    platform_env: bool = False,
) -> Config:
    """Read and validate the configuration.

    :param source: the configuration itself, the path of a file, or None for what
        ``OPENCLAW_CONFIG_JSON`` holds, or else the file where :func:`config_path` says; only
        then may the file be missing. Single keys from ``env`` win over all of them.
    :param env: the environment; it is read, never changed.
    :param require_auth: refuse a configuration without the secret that its mode needs.
    :param platform_env: ``DATABASE_URL`` and ``REDIS_URL`` are the gateway's, and not its host's.
    :raises ConfigError: ``problems`` has one line for each mistake. A file that cannot be
        read or parsed is reported alone, before its content is looked at.
    """
    try:
        return _load(source, env, require_auth, platform_env)
    except RecursionError:
        raise ConfigError("The configuration is nested too deeply.") from None


def config_path(env: Mapping[str, str]) -> Path:
    """Where the environment says the configuration file is; it need not exist.

    :raises ConfigError: there is no home directory to look in.
    """
    if named := env.get("OPENCLAW_CONFIG_PATH"):
        return _expand(named, env)
    return state_dir(env) / "openclaw.json"


def state_dir(env: Mapping[str, str]) -> Path:
    """The directory for everything the gateway keeps; it need not exist.

    :raises ConfigError: there is no home directory to put it in.
    """
    return _expand(env.get("OPENCLAW_STATE_DIR") or "~/.openclaw", env)


def _load(
    source: Mapping[str, object] | str | os.PathLike[str] | None,
    env: Mapping[str, str],
    require_auth: bool,
    platform_env: bool,
) -> Config:
    problems: list[str] = []
    warnings: list[str] = []
    files: list[Path] = []
    inline = env.get(_INLINE, "") if source is None else ""
    path = None if inline else _path_of(source, env, warnings)
    place = _INLINE if inline else path
    if inline:
        document = _inline(inline, env, Reader(problems, files), warnings)
    else:
        document = _document(source if isinstance(source, Mapping) else path, Reader(problems, files))
    document, variables = with_variables(document, env, problems)
    document = with_log_variables(document, env, variables)
    _refuse(problems, place, files)
    document = without_unserved(document, warnings)
    document = Substitution(known_values(document, env), problems, warnings).apply(document)
    document = _with_secrets_of(env, document)
    document = with_engines(document, env, variables, platform=platform_env)
    parsed = _validated(document, require_auth, problems)
    if require_auth:
        _refuse_open_address(parsed.gateway, env, problems)
    _refuse([blame(problem, variables) for problem in problems], place, files)
    return Config(
        gateway=parsed.gateway,
        agents=parsed.agents,
        models=parsed.models,
        session=parsed.session,
        tools=parsed.tools,
        messages=parsed.messages,
        skills=parsed.skills,
        mcp=parsed.mcp,
        logging=parsed.logging,
        state=parsed.state,
        state_dir=state_dir(env),
        path=path,
        warnings=tuple(warnings),
        variables=(*([_INLINE] if inline else []), *variables.values()),
        files=tuple(files) or (() if inline or source is not None else (config_path(env),)),
    )


def _path_of(
    source: Mapping[str, object] | str | os.PathLike[str] | None, env: Mapping[str, str], warnings: list[str]
) -> Path | None:
    """The file to read; None if there is none."""
    if isinstance(source, Mapping):
        return None
    if source is not None:
        return _expand(os.fspath(source), env)
    path = config_path(env)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if env.get("OPENCLAW_CONFIG_PATH"):
            warnings.append(f"OPENCLAW_CONFIG_PATH names {path}, which does not exist; defaults apply")
        return None
    except (OSError, ValueError):
        pass  # it is there but cannot be used: reading it says why
    return path


def _document(source: Mapping[str, object] | Path | None, reader: Reader) -> dict[str, Any]:
    if source is None:
        return {}
    value = reader.read(source) if isinstance(source, Path) else reader.resolve(_plain(source))
    return _object(value, reader.problems)


def _inline(text: str, env: Mapping[str, str], reader: Reader, warnings: list[str]) -> dict[str, Any]:
    """The configuration that is written in the environment."""
    if env.get("OPENCLAW_CONFIG_PATH"):
        warnings.append(f"{_INLINE} is the configuration; the file of OPENCLAW_CONFIG_PATH is not read")
    try:
        return _object(reader.resolve(_plain(parse(text))), reader.problems)
    except InvalidJson5 as error:
        reader.problems.append(str(error))
        return {}


def _object(value: object, problems: list[str]) -> dict[str, Any]:
    plain = _plain(value)
    if isinstance(plain, dict):
        return plain
    problems.append("the configuration must be an object")
    return {}


def _plain(value: object) -> Any:
    """A copy made of dicts and lists, with text that can be encoded."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _with_secrets_of(env: Mapping[str, str], document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with the gateway's secrets from ``env`` where it has none itself.

    Also makes sure that the section exists, so that its rules are checked.
    """
    gateway = document.get("gateway", {})
    auth = gateway.get("auth", {}) if isinstance(gateway, dict) else None
    if not isinstance(auth, dict):
        return document
    found = {key: env[name] for key, name in _SECRETS.items() if env.get(name, "").strip()}
    added = {key: secret for key, secret in found.items() if auth.get(key) is None}
    return {**document, "gateway": {**gateway, "auth": {**auth, **added}}}


def _validated(document: dict[str, Any], require_auth: bool, problems: list[str]) -> Document:
    try:
        context = {"require_auth": require_auth}
        return Document.model_validate(document, by_alias=True, by_name=False, context=context)
    except ValidationError as error:
        problems.extend(describe(error))
        return Document()


def _refuse_open_address(gateway: GatewayConfig, env: Mapping[str, str], problems: list[str]) -> None:
    """The environment may choose another address than the one that the section itself has looked at."""
    host = env.get("OPENCLAW_GATEWAY_HOST") or "localhost"
    if gateway.auth.mode == "none" and not gateway.auth.allow_open_network and not _is_loopback(host):
        problems.append(
            f'OPENCLAW_GATEWAY_HOST: with gateway.auth.mode "none" everyone gets in who reaches {host}: set '
            "a token or a password, listen on 127.0.0.1, or set gateway.auth.allowOpenNetwork to true"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse(problems: list[str], source: Path | str | None, files: list[Path]) -> None:
    if problems:
        place = f" in {source}" if source else ""
        told = f"The configuration{place} cannot be used:"
        raise ConfigError(told, tuple(dict.fromkeys(problems)), tuple(files))


def _expand(name: str, env: Mapping[str, str]) -> Path:
    if name != "~" and not name.startswith("~/"):
        return Path(name).absolute()
    try:
        home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    except RuntimeError:
        raise ConfigError("There is no home directory: set OPENCLAW_STATE_DIR.") from None
    return (home / name[2:]).absolute()
