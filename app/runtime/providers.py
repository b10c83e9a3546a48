"""Model providers as the configuration and the environment say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypedDict
from urllib.parse import urlsplit

from ..config import Compat, Config, ModelConfig, ProviderConfig
from ..errors import ConfigError
from ..providers import catalogue
from ..providers.anthropic import AnthropicMessages
from ..providers.base import ModelInfo, Price, Provider
from ..providers.embedded import BUILT_IN, EmbeddedProvider
from ..providers.known import KNOWN, OLLAMA, KnownProvider
from ..providers.ollama import Ollama
from ..providers.openai_completions import OpenAICompletions, WireSwitches
from ..providers.openai_responses import OpenAIResponses
from ..providers.transport import HttpClient
from ..runs.executor import Executor

EMBEDDED: Literal["embedded"] = "embedded"
_OPENAI: Literal["openai-completions"] = "openai-completions"
_ANTHROPIC: Literal["anthropic-messages"] = "anthropic-messages"
_OLLAMA: Literal["ollama"] = "ollama"

_VENDORS: Mapping[str, KnownProvider] = {vendor.id: vendor for vendor in (*KNOWN, OLLAMA)}
# The address of a provider that has none, for a look at what else is wrong.
_NOWHERE = "http://nowhere.invalid"
# An Ollama server has a window of its own for models that nobody has said more about.
_OLLAMA_WINDOW = 32_768
_LOOKED_UP = 256  # models of one provider; a client may make names up


def build_providers(
    config: Config, env: Mapping[str, str], executor: Executor, problems: list[str] | None = None
) -> dict[str, Provider]:
    """All providers by id: configured ones, those with a key in ``env``, and the built-in model.

    Starts and connects nothing.

    :param problems: gets a line for each mistake in place of an error, so that more can be looked for;
        what is built then cannot be used.
    :raises ConfigError: nothing says where a provider is; every such mistake is named.
    """
    http = HttpClient()
    built: dict[str, Provider] = {}
    found: list[str] = []
    for vendor in KNOWN:
        if env_keys(env, vendor):
            built[vendor.id] = _configured(vendor.id, ProviderConfig(), env, http)
    built[OLLAMA.id] = _configured(OLLAMA.id, ProviderConfig(base_url=_ollama_address(env)), env, http)
    for provider_id, settings in config.models.providers.items():
        if settings.api != EMBEDDED:
            try:
                built[provider_id] = _configured(provider_id, settings, env, http)
            except ConfigError as error:
                found.append(str(error))
                nowhere = settings.model_copy(update={"base_url": _NOWHERE})
                built[provider_id] = _configured(provider_id, nowhere, env, http)
    embedded = config.models.providers.get(EMBEDDED)
    if embedded and embedded.model_path and not Path(embedded.model_path).expanduser().is_file():
        found.append(f"models.providers.{EMBEDDED}.modelPath: there is no file {embedded.model_path}")
    if problems is not None:
        problems += found
    elif found:
        raise ConfigError("The configuration cannot be used:", tuple(found))
    built[EMBEDDED] = _embedded(config, executor)
    return built


def default_model(config: Config, env: Mapping[str, str]) -> str:
    """The model of agents that name none: a configured one, one with a key, else the built-in."""
    for provider_id, settings in config.models.providers.items():
        if settings.models:
            return f"{provider_id}/{settings.models[0].id}"
    for vendor in KNOWN:
        if env_keys(env, vendor):
            return f"{vendor.id}/{vendor.default_model}"
    return f"{EMBEDDED}/{BUILT_IN}"


def embedding_model(config: Config, model_ref: str) -> str | None:
    """The model that makes vectors for agents with this model, where the configuration names none.

    The built-in runtime embeds with the model it has, a vendor at its own address with the usual one.
    """
    provider_id = model_ref.partition("/")[0].lower()
    if provider_id == EMBEDDED:
        return model_ref
    vendor = _VENDORS.get(provider_id)
    settings = config.models.providers.get(provider_id, ProviderConfig())
    if vendor is None or vendor.embedding_model is None or settings.base_url not in (None, vendor.base_url):
        return None
    return f"{vendor.id}/{vendor.embedding_model}"


def env_keys(env: Mapping[str, str], vendor: KnownProvider) -> tuple[str, ...]:
    """The vendor's keys in the environment: of the first variable that is set, and the same in plural."""
    for name in vendor.env_keys:
        several = (key.strip() for key in env.get(f"{name}S", "").split(","))
        if keys := [key for key in (env.get(name, "").strip(), *several) if key]:
            return tuple(dict.fromkeys(keys))
    return ()


def provider_secrets(config: Config, env: Mapping[str, str]) -> list[str]:
    """Keys and header values of all providers, as far as they are set."""
    providers = config.models.providers.values()
    return [
        *(
            key.get_secret_value()
            for p in providers
            for key in (*p.api_keys, *((p.api_key,) if p.api_key else ()))
        ),
        *(value.get_secret_value() for p in providers for value in p.headers.values()),
        *(key for vendor in KNOWN for key in env_keys(env, vendor)),
    ]


def _ollama_address(env: Mapping[str, str]) -> str | None:
    """Where Ollama's own variable says that it listens; None without one that can be used."""
    host = env.get("OLLAMA_HOST", "").strip()
    if not host:
        return None
    url = host if "://" in host else f"http://{host}"
    try:
        address = urlsplit(url)
        if address.hostname == "0.0.0.0":  # noqa: S104 - where it listens is not where it is reached
            return f"http://127.0.0.1:{address.port or 11434}"
        return url if address.port or "://" in host else f"{url}:11434"
    except ValueError:
        return None


def _embedded(config: Config, executor: Executor) -> EmbeddedProvider:
    settings = config.models.providers.get(EMBEDDED, ProviderConfig(api=EMBEDDED))
    return EmbeddedProvider(
        model_path=settings.model_path,
        runtime_dir=config.state_dir / "run",
        context_size=settings.context_size,
        threads=settings.threads,
        slots=settings.slots,
        spawn=executor.spawn,
    )


def _configured(
    provider_id: str, settings: ProviderConfig, env: Mapping[str, str], http: HttpClient
) -> Provider:
    """A provider as ``settings`` say; what they leave open is as a known vendor of this id has it.

    Its address and switches are those of the vendor's own API and of no other.

    :raises ConfigError: nothing says where the provider is.
    """
    vendor = _VENDORS.get(provider_id)
    api = settings.api or (_usual_api(vendor, settings) if vendor else _OPENAI)
    known = vendor if vendor and api in vendor.apis else None
    base_url = settings.base_url or (known.base_url if known else None)
    if base_url is None:
        raise ConfigError(f"models.providers.{provider_id}.baseUrl is required.")
    schemas = known is not None and known.schemas and base_url == known.base_url
    look_up = _look_up(vendor, settings.compat, schemas=schemas)
    default = _with_compat(ModelInfo(images=known is not None, prefill=api == _ANTHROPIC), settings.compat)
    options: _Options = {
        "base_url": base_url,
        "api_keys": _keys(settings, vendor, env) if settings.auth_header else (),
        "http": http,
        "headers": {name: value.get_secret_value() for name, value in settings.headers.items()},
        "models": {
            model.id: _stated(model, look_up(model.id) or replace(default, images=False))
            for model in settings.models
        },
        "default": default,
        "lookup": look_up,
    }
    if api == _ANTHROPIC:
        return AnthropicMessages(provider_id, **options)
    if api == "openai-responses":
        return OpenAIResponses(provider_id, **options)
    if api == _OLLAMA:
        options["default"] = replace(default, context_window=_OLLAMA_WINDOW)
        windows = {model.id: model.context_window for model in settings.models if model.context_window}
        return Ollama(provider_id, **options, windows=windows)
    switches = _switches(settings.compat, known.switches if known else WireSwitches())
    return OpenAICompletions(provider_id, **options, switches=switches)


class _Options(TypedDict):
    """What all providers are made of that are reached over HTTP."""

    base_url: str
    api_keys: tuple[str, ...]
    http: HttpClient
    headers: Mapping[str, str]
    models: Mapping[str, ModelInfo]
    default: ModelInfo
    lookup: Callable[[str], ModelInfo | None]


def _usual_api(vendor: KnownProvider, settings: ProviderConfig) -> str:
    """The wire format that a vendor prefers; at another address the one that is most widely spoken."""
    elsewhere = settings.base_url is not None and settings.base_url != vendor.base_url
    return vendor.apis[-1] if elsewhere else vendor.api


def _look_up(
    vendor: KnownProvider | None, compat: Compat, *, schemas: bool
) -> Callable[[str], ModelInfo | None]:
    """Finds what is known about a model, corrected by what the operator says of the server.

    :param schemas: the server holds the answers of models that are known to a JSON schema.
    """

    @lru_cache(_LOOKED_UP)  # asked many times in every run
    def look_up(model: str) -> ModelInfo | None:
        info = catalogue.lookup(vendor.id, model) if vendor else None
        return _with_compat(info, compat, schemas=schemas) if info else None

    return look_up


def _stated(model: ModelConfig, info: ModelInfo) -> ModelInfo:
    """``info`` with everything that the configuration says about the model."""
    return replace(
        info,
        context_window=model.context_window or info.context_window,
        max_output=model.max_tokens or info.max_output,
        images="image" in model.input if model.input is not None else info.images,
        reasoning=info.reasoning if model.reasoning is None else model.reasoning,
        price=_price(model) or info.price,
    )


def _price(model: ModelConfig) -> Price | None:
    cost = model.cost
    if cost is None:
        return None
    return Price(
        input=cost.input,
        output=cost.output,
        cache_read=cost.input if cost.cache_read is None else cost.cache_read,
        cache_write=cost.input if cost.cache_write is None else cost.cache_write,
    )


def _with_compat(info: ModelInfo, compat: Compat, *, schemas: bool = False) -> ModelInfo:
    return replace(
        info,
        tools=_either(compat.supports_tools, info.tools),
        prefill=_either(compat.supports_prefill, info.prefill),
        schemas=_either(compat.supports_json_schema, schemas),
    )


def _switches(compat: Compat, default: WireSwitches) -> WireSwitches:
    return replace(
        default,
        max_tokens_field=compat.max_tokens_field or default.max_tokens_field,
        stream_usage=_either(compat.supports_usage_in_streaming, default.stream_usage),
        developer_role=_either(compat.supports_developer_role, default.developer_role),
        store=_either(compat.supports_store, default.store),
        json_schema=_either(compat.supports_json_schema, default.json_schema),
        strict_tools=_either(compat.supports_strict_mode, default.strict_tools),
    )


def _either(stated: bool | None, default: bool) -> bool:
    return default if stated is None else stated


def _keys(settings: ProviderConfig, vendor: KnownProvider | None, env: Mapping[str, str]) -> tuple[str, ...]:
    """The configured keys, the single one first, else those of the environment."""
    stated = [*([settings.api_key] if settings.api_key else []), *settings.api_keys]
    keys = tuple(dict.fromkeys(key.get_secret_value() for key in stated))
    return keys or (env_keys(env, vendor) if vendor else ())
