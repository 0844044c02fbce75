"""Which states and cells of a stack take part in its network. Without torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

INPUTS = ("0", "1")  # the states that are the cell's inputs


@dataclass(frozen=True)
class Cells:
    """The form of both cells. Their states are numbered as in DARTS' genotypes, as text.

    blocks: of a cell. ops: that a term may be. combine: of a block's terms, "add", "concat" or, where that is decided,
    "search". fixed: of each kind of cells the states that it puts out; None: those that nothing reads.
    """

    blocks: int
    ops: tuple[str, ...]
    combine: str
    fixed: Mapping[str, tuple[str, ...] | None]

    @property
    def states(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.blocks + 2)))

    def inputs(self, chosen: Mapping[str, str], kind: str, block: int) -> set[str]:
        return {chosen[f"{kind}{block}.input1"], chosen[f"{kind}{block}.input2"]}

    def outputs(self, chosen: Mapping[str, str], kind: str) -> Collection[str]:
        """The states that a cell concatenates. chosen: decision -> option."""
        if (fixed := self.fixed[kind]) is not None:
            return fixed
        used = set().union(*(self.inputs(chosen, kind, block) for block in range(1, self.blocks + 1)))
        return [state for state in self.states if state not in used]

    def live(self, chosen: Mapping[str, str], kind: str) -> set[str]:
        """The states of a cell that its outputs depend on."""
        states = set(self.outputs(chosen, kind))
        for block in range(self.blocks, 0, -1):
            if str(block + 1) in states:
                states |= self.inputs(chosen, kind, block)
        return states

    def live_cells(self, chosen: Mapping[str, str], kinds: Sequence[str], read: Iterable[int]) -> set[str]:
        """The cells that those in `read` depend on, these included, as text. kinds: of the cells 0, 1, ..."""
        reach = {kind: [2 - int(s) for s in self.live(chosen, kind) if s in INPUTS] for kind in set(kinds)}
        cells = set(read)
        for cell in range(len(kinds) - 1, -1, -1):
            if cell in cells:
                cells |= {cell - back for back in reach[kinds[cell]]}
        return {str(cell) for cell in cells if cell >= 0}
