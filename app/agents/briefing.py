"""What a model gets to see in one turn: prompt, tools, and as much of the conversation as fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from ..log import get_logger
from ..messages import Message, SamplingParams, UserMessage
from ..providers.base import ModelInfo, ModelRequest, ToolChoice, ToolSpec
from ..providers.formats import in_words, schema_of
from ..tools.registry import Tool
from .compaction import INSTRUCTIONS
from .context import repaired, tokens_of, without_images
from .conversation import fixed_tokens
from .models import Candidate, merge_params
from .prompt import PromptInput, build_prompt
from .registry import Agent
from .skills import Skill
from .turn import Harness, TurnInput

_log = get_logger("agent")

_NEWS = "[The gateway tells you what has happened since the last turn:\n{}]"
_FOCUS = "Whoever asks for it wants this above all: {}"


@dataclass(frozen=True, slots=True)
class Brief:
    """What is the same in all calls of a model in one turn, so that its provider can keep it cached.

    :ivar tools: the agent's own, then the caller's.
    :ivar client_tools: the caller's.
    :ivar tokens: estimated size of prompt and tools.
    """

    system: str
    tools: tuple[ToolSpec, ...]
    client_tools: tuple[ToolSpec, ...]
    tokens: int


class Briefing:
    """Makes the model requests of one turn."""

    def __init__(self, agent: Agent, turn: TurnInput, harness: Harness, skills: Sequence[Skill]) -> None:
        self._agent = agent
        self._turn = turn
        self._harness = harness
        self._skills = tuple(skills)
        self._briefs: dict[str, Brief] = {}
        # A session key may tell who is talking, and be longer than the 64 characters that are taken.
        shared = turn.cache_key or turn.session_key
        self._cache_key = sha256(shared.encode(errors="replace")).hexdigest()[:32]
        # What a caller says of where a message comes from may narrow what is permitted, and never widens it.
        self._channels = frozenset((turn.channel, turn.message_channel or turn.channel))
        lines = "\n".join(f"- {' '.join(line.split())}" for line in turn.news)
        self._news = (UserMessage.of(_NEWS.format(lines)),) if lines else ()
        theirs = turn.client_tools.names
        self._withheld = turn.withheld | theirs
        tools = {tool.name: tool for tool in harness.tools.tools}
        permitted = self._permitted(tools)
        self.tools: Mapping[str, Tool] = {name: tool for name, tool in tools.items() if name in permitted}
        if theirs and (hidden := theirs & tools.keys()):
            _log.debug(
                "run %s: the caller's own tools stand in for %s", turn.run_id, ", ".join(sorted(hidden))
            )

    def permits(self, name: str, model_ref: str = "") -> bool:
        """True if this run may use the tool, while ``model_ref`` answers."""
        policy = self._agent.policy
        return name not in self._withheld and all(
            policy.permits(name, model_ref=model_ref, channel=channel) for channel in self._channels
        )

    def _permitted(self, names: Iterable[str], model_ref: str = "") -> frozenset[str]:
        """Those of ``names`` that this run may use, while ``model_ref`` answers."""
        policy, channels = self._agent.policy, self._channels
        return policy.permitted(tuple(names), model_ref=model_ref, channels=channels) - self._withheld

    def brief(self, candidate: Candidate) -> Brief:
        """Prompt and tools for a candidate."""
        if candidate.ref not in self._briefs:
            self._briefs[candidate.ref] = self._make_brief(candidate)
        return self._briefs[candidate.ref]

    def budget(self, info: ModelInfo) -> int:
        """Tokens of a model's window that a whole prompt may take."""
        return info.context_window - min(self._harness.compaction.reserve, info.context_window // 4)

    def request(
        self, candidate: Candidate, credential: int, behind: Sequence[Message], *, with_tools: bool
    ) -> ModelRequest:
        """The next call of the turn.

        :param behind: said behind the conversation, and no part of it.
        :param with_tools: offer the agent's own tools, beside the caller's.
        """
        info, brief, theirs = candidate.info, self.brief(candidate), self._turn.client_tools
        conversation = self._turn.conversation
        room = conversation.room(self.budget(info), brief.tokens) - tokens_of(self._news)
        messages = repaired(self._with_news(conversation.fitted(room, behind)))
        return ModelRequest(
            model=candidate.model,
            system=brief.system,
            messages=tuple(messages if info.images else without_images(messages)),
            tools=brief.tools if with_tools else brief.client_tools,
            tool_choice=theirs.choice if brief.client_tools else ToolChoice(),
            parallel_tool_calls=theirs.parallel,
            params=_within(info, merge_params(self._agent.params, self._turn.params)),
            timeouts=candidate.timeouts,
            credential=credential,
            cache_key=self._cache_key,
        )

    def _place(self) -> tuple[str, ...]:
        channel = self._turn.message_channel
        return (f"This message came in over the channel {channel}.",) if channel else ()

    def _with_news(self, messages: Sequence[Message]) -> Sequence[Message]:
        """What happened since the last turn goes before the newest question: all that stands before
        that stays as it was, so that a provider finds it in its cache."""
        asked = (i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], UserMessage))
        place = next(asked, len(messages))
        return (*messages[:place], *self._news, *messages[place:])

    def _form(self, info: ModelInfo) -> str:
        """What is said of the form of the answer, behind all that stays the same: nothing to a model that
        is held to a schema anyway."""
        wanted = self._turn.params.response_format
        if wanted is None or (info.schemas and schema_of(wanted)):
            return ""
        return in_words(wanted)

    def _make_brief(self, candidate: Candidate) -> Brief:
        permitted = self._permitted(self.tools, candidate.ref)
        offered = (tool for name, tool in self.tools.items() if name in permitted)
        own = tuple(map(_spec, offered)) if candidate.info.tools else ()
        theirs = self._turn.client_tools.offered_to(candidate.info)
        system = build_prompt(
            PromptInput(
                name=self._agent.name,
                workspace=self._agent.workspace,
                tools=own,
                skills=self._skills,
                caller=self._turn.system,
                main_session=self._turn.main_session,
                purpose=self._turn.purpose,
                small=candidate.info.small,
                facts=(*self._harness.facts(), *self._place()),
                limits=self._harness.prompt_limits,
            )
        )
        system = "\n\n".join(filter(None, (system, self._form(candidate.info))))
        tools = own + theirs
        return Brief(system, tools, theirs, fixed_tokens(system, tools))


def summary_request(candidate: Candidate, credential: int, prompt: str, focus: str) -> ModelRequest:
    """The call that asks for a summary.

    :param focus: what the summary should keep in mind, may be empty.
    """
    info = candidate.info
    longest = min(max(512, info.context_window // 8), 8_192)
    return ModelRequest(
        model=candidate.model,
        system=f"{INSTRUCTIONS} {_FOCUS.format(focus)}" if focus else INSTRUCTIONS,
        messages=(UserMessage.of(prompt),),
        params=_within(info, SamplingParams(max_tokens=longest)),
        timeouts=candidate.timeouts,
        credential=credential,
    )


def _within(info: ModelInfo, params: SamplingParams) -> SamplingParams:
    """Parameters that the model does not refuse: it cannot write more than it can write."""
    if params.max_tokens is None or info.max_output is None:
        return params
    return replace(params, max_tokens=min(params.max_tokens, info.max_output))


def _spec(tool: Tool) -> ToolSpec:
    return ToolSpec(tool.name, tool.description, tool.parameters)
