"""Tools that the caller of a run brings along and runs itself: a call of one ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..messages import ToolCall
from ..providers.base import ToolChoice, ToolSpec


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

    def among(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Those of ``calls`` that the caller is to run."""
        names = self.names
        theirs = tuple(call for call in calls if call.name in names)
        return theirs if self.parallel else theirs[:1]


NO_CLIENT_TOOLS = ClientTools()
