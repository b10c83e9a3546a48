"""The configuration: found, read, checked and frozen. See docs/configuration.md."""

from .agents import (
    AgentConfig,
    AgentDefaults,
    AgentsConfig,
    CompactionConfig,
    ModelParams,
    ModelSelection,
    SubagentsConfig,
)
from .extras import McpConfig, McpServerConfig, MessagesConfig, QueueConfig, SkillsConfig
from .gateway import (
    AuthConfig,
    ChatCompletionsConfig,
    CorsConfig,
    GatewayConfig,
    HttpConfig,
    ImagesConfig,
    RateLimitConfig,
)
from .loading import config_path, load_config, state_dir
from .models import Compat, ModelConfig, ModelsConfig, ProviderConfig
from .schema import Config, MaintenanceConfig, ResetConfig, SessionConfig
from .section import seconds_of
from .state import StateConfig
from .tools import AgentToolsConfig, ExecConfig, ExecPolicyConfig, ToolPolicyConfig, ToolsConfig, WebConfig

__all__ = [
    "AgentConfig",
    "AgentDefaults",
    "AgentToolsConfig",
    "AgentsConfig",
    "AuthConfig",
    "ChatCompletionsConfig",
    "CompactionConfig",
    "Compat",
    "Config",
    "CorsConfig",
    "ExecConfig",
    "ExecPolicyConfig",
    "GatewayConfig",
    "HttpConfig",
    "ImagesConfig",
    "MaintenanceConfig",
    "McpConfig",
    "McpServerConfig",
    "MessagesConfig",
    "ModelConfig",
    "ModelParams",
    "ModelSelection",
    "ModelsConfig",
    "ProviderConfig",
    "QueueConfig",
    "RateLimitConfig",
    "ResetConfig",
    "SessionConfig",
    "SkillsConfig",
    "StateConfig",
    "SubagentsConfig",
    "ToolPolicyConfig",
    "ToolsConfig",
    "WebConfig",
    "config_path",
    "load_config",
    "seconds_of",
    "state_dir",
]
