"""The configuration: found, read, checked and frozen. See docs/configuration.md."""

from .agents import AgentConfig, AgentDefaults, AgentsConfig, ModelParams, ModelSelection, ToolPolicyConfig
from .gateway import AuthConfig, ChatCompletionsConfig, GatewayConfig, HttpConfig, RateLimitConfig
from .loading import config_path, load_config, state_dir
from .models import Compat, ModelConfig, ModelsConfig, ProviderConfig
from .schema import Config, SessionConfig

__all__ = [
    "AgentConfig",
    "AgentDefaults",
    "AgentsConfig",
    "AuthConfig",
    "ChatCompletionsConfig",
    "Compat",
    "Config",
    "GatewayConfig",
    "HttpConfig",
    "ModelConfig",
    "ModelParams",
    "ModelSelection",
    "ModelsConfig",
    "ProviderConfig",
    "RateLimitConfig",
    "SessionConfig",
    "ToolPolicyConfig",
    "config_path",
    "load_config",
    "state_dir",
]
