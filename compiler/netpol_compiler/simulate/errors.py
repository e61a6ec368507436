"""The one error of the simulator."""

from __future__ import annotations


class SimulateError(ValueError):
    """Text that the restore programs or the kernel would refuse, or that this simulator does not know.

    `line` is the 1-based line of the text, 0 where there is none; `text` is that line.
    """

    def __init__(self, reason: str, line: int = 0, text: str = "") -> None:
        super().__init__(f"line {line}: {reason}: {text}" if line else reason)
        self.reason, self.line, self.text = reason, line, text
