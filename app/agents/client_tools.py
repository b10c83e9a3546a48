"""Tools that the caller of a run brings along and runs itself: a call of one ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cancel import CancelToken
from ..errors import InvalidRequest
from ..messages import ToolCall
from ..providers.base import ModelInfo, ToolChoice, ToolSpec
from ..wire import loads
from .schemas import schema_fault, value_fault


@dataclass(frozen=True, slots=True)
class ClientTools:
    """What the caller can do, and whether it is to be asked for it.

    :ivar specs: as the model sees them; their names differ.
    :ivar choice: what the answer has to call, if anything.
    :ivar parallel: the answer may call several at once.
    """

    specs: tuple[ToolSpec, ...] = ()
    choice: ToolChoice = ToolChoice()
    parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        """What the tools are called. The agent's own of the same name stand back."""
        return frozenset(spec.name for spec in self.specs)

    @property
    def offered(self) -> tuple[ToolSpec, ...]:
        """Those that the answer may call."""
        if self.choice.name is None:
            return self.specs
        return tuple(spec for spec in self.specs if spec.name == self.choice.name)

    def offered_to(self, info: ModelInfo) -> tuple[ToolSpec, ...]:
        """Those that a model gets to see: none if it will not call any."""
        able = info.tools or (info.tools_on_demand and self.choice.required)
        return self.offered if able else ()

    def offers(self, name: str) -> bool:
        """True if the answer may call the tool of this name."""
        return any(spec.name == name for spec in self.offered)

    def among(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Those of ``calls`` that the caller is to run."""
        theirs = tuple(call for call in calls if self.offers(call.name))
        return theirs if self.parallel else theirs[:1]

    def fault_of(self, call: ToolCall, cancel: CancelToken) -> str | None:
        """What of a call's arguments is not as a strict tool wants them, as a sentence, or None.

        :param call: its arguments are a JSON object.
        :raises InvalidRequest: the tool's schema is none that arguments can be judged by. It is looked
            at no sooner: to check all schemas of a request would take longer than all the rest of it.
        :raises Cancelled: ``cancel`` fired meanwhile.
        """
        spec = next(spec for spec in self.specs if spec.name == call.name)
        if not spec.strict:
            return None
        if fault := schema_fault(spec.parameters):
            raise InvalidRequest(
                f"The schema of the strict tool {spec.name!r} cannot be used: {fault}", param="tools"
            )
        return value_fault(spec.parameters, loads(call.arguments.encode()), cancel)


NO_CLIENT_TOOLS = ClientTools()
