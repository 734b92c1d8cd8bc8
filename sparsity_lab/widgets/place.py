"""Where a dashboard stands: the notebook cell that made it, so that it goes on when the cell is run again."""

from dataclasses import dataclass, field
from typing import Any

from IPython.core.getipython import get_ipython


@dataclass
class Place:
    """The dashboards that a cell made when it was run last, and those before of which none has taken over."""

    execution: str = ""
    now: list[Any] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)

    def take(self, dashboard: Any, execution: str) -> tuple[Any, list[Any]]:
        """Adds a dashboard. Returns the one whose place it takes, or None, and those that are on no page any more. A
        cell may make several, which take the places of the earlier ones in their order."""
        gone = []
        if execution != self.execution:
            gone, self.before, self.now, self.execution = self.before, self.now, [], execution
        old = self.before.pop(0) if self.before else None
        self.now.append(dashboard)
        return old, gone


def kernel() -> Any:
    """Returns the kernel that this code runs in; None where there is none."""
    return getattr(get_ipython(), "kernel", None)


def cell() -> tuple[str, str]:
    """Returns the id of the notebook cell that is being run, and that of this execution; "" where there is none."""
    running = kernel()
    parent = running.get_parent("shell") if running is not None else {}
    return str(parent.get("metadata", {}).get("cellId", "")), str(parent.get("header", {}).get("msg_id", ""))
