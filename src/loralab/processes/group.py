"""The processes of one run, each with a copy of the base, and the three ways in which they work together:

    processes.together(prepare)       each does it for itself; where one fails, all fail
    processes.first(write)            the first one does it for all; all have the result
    processes.map(measure, batches)   shared out; all have the results, in the order of the items

An error that one of them meets in there is raised by all, so that none waits for one that has gone. One process alone
simply does the work. Torch calls an index a rank and a count a world size: here a rank is LoRA's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from loralab.errors import LoralabError, ProcessError, first_line, listed
from loralab.progress import tracked

Item = TypeVar("Item")
Result = TypeVar("Result")


def _go_on() -> None:
    """Nothing stands against it."""


def _nothing() -> None:
    """It is another's turn."""


@dataclass(frozen=True)
class ProcessProblem:
    """What one process met, on its way to the others."""

    index: int
    count: int
    error: BaseException | None
    """None of an error that nobody expected: it stays with the process that met it."""
    said: str

    @classmethod
    def of(cls, error: BaseException, processes: "Processes") -> "ProcessProblem":
        """The error that this process met."""
        travels = isinstance(error, LoralabError) or not isinstance(error, Exception)
        said = f"{type(error).__name__}: {first_line(error)}"
        return cls(processes.index, processes.count, error if travels else None, said)

    def raised_elsewhere(self) -> BaseException:
        """The error as the other processes raise it."""
        error = self.error or ProcessError(f"process {self.index} of {self.count} failed: {self.said}")
        if isinstance(error, LoralabError):
            error.is_known_to_all = True
        return error


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them."""

    index: int = 0
    """Of this one; the first one has 0."""
    count: int = 1
    device: str = "cpu"
    """The kind that each computes on."""
    in_step: bool = False
    """Whether all must make the same passes through the model, as one whose weights are sharded needs."""
    may_go_on: Callable[[], None] = _go_on
    """Called before each item of `map`, unless they go in step; it may raise."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.index == 0

    @property
    def are_several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that are this process's share: every `count`-th."""
        return items[self.index :: self.count]

    def shares(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """What is whose share, by their index; some may have none."""
        return [items[index :: self.count] for index in range(self.count)]

    # -- working together -----------------------------------------------------------------------------------------

    def together(self, work: Callable[[], Result]) -> Result:
        """What this process's own work came to, once all have done theirs."""
        if not self.are_several:
            return work()
        result, error = _attempted(work)
        self._raise_first_of(self._gathered(error and ProcessProblem.of(error, self)), error)
        return result  # type: ignore[return-value]  # there was no error

    def first(self, work: Callable[[], Result]) -> Result:
        """What the work of the first process came to; the others only wait for it. It must not call any of these."""
        if not self.are_several:
            return work()
        result, error = _attempted(work) if self.is_first else (None, None)
        sent: list[Any] = [(result, error and ProcessProblem.of(error, self))]
        with reached():
            dist.broadcast_object_list(sent, src=0)
        result, problem = sent[0]
        self._raise_first_of([problem], error)
        return result  # type: ignore[no-any-return]

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """As `together`, one after another: for what takes more memory for a while than all could have at once."""
        results = []
        for turn in range(self.count):
            results.append(self.together(work if turn == self.index else _nothing))
        return results[self.index]  # type: ignore[return-value]  # it is what the work came to

    def map(self, work: Callable[[Item], Result], items: Sequence[Item], what: str = "items") -> list[Result]:
        """The result of every item, in their order. `what` they are, where progress is shown."""
        if not self.are_several:
            return [work(item) for item in tracked(items, what)]

        def own() -> list[Result]:
            results = []
            for item in tracked(self.own(items), what):
                if not self.in_step:
                    self.may_go_on()
                results.append(work(item))
            if self.in_step and len(results) * self.count < len(items):  # others have one item more
                work(items[0])
            return results

        shares = self.gather(own)
        return [shares[place % self.count][place // self.count] for place in range(len(items))]

    def gather(self, work: Callable[[], Result]) -> list[Result]:
        """What each process's own work came to, by their index."""
        if not self.are_several:
            return [work()]
        result, error = _attempted(work)
        sent = self._gathered((result, error and ProcessProblem.of(error, self)))
        self._raise_first_of([problem for _, problem in sent], error)
        return [each for each, _ in sent]

    def _gathered(self, own: Any) -> list[Any]:
        everyones: list[Any] = [None] * self.count
        with reached():
            dist.all_gather_object(everyones, own)
        return everyones

    def _raise_first_of(self, problems: Iterable[ProcessProblem | None], own: BaseException | None) -> None:
        for problem in problems:
            if problem is None:
                continue
            if problem.index == self.index and own is not None:
                if isinstance(own, LoralabError):
                    own.is_known_to_all = True
                raise own
            raise problem.raised_elsewhere()

    # -- numbers --------------------------------------------------------------------------------------------------

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place, the same bits in each of them."""
        if self.are_several:
            with reached():
                dist.all_reduce(tensor)
        return tensor

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes have."""
        if not self.are_several:
            return number
        with reached():
            dist.all_reduce(found := torch.tensor(number), dist.ReduceOp.MAX)
        return int(found)

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """The values of these tensors become those of the first process, in place."""
        if not self.are_several:
            return
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            with reached():
                dist.broadcast(sent, src=0)
            with torch.no_grad():
                tensor.copy_(sent)

    def check_alike(self, facts: Callable[[], Mapping[str, str]]) -> None:
        """Raises `ProcessError` naming what is not in all processes as it is in the first one."""
        if not self.are_several:
            return
        first, *others = self.gather(facts)
        differing = [
            f"{name} is {own.get(name)} in process {index} and {first.get(name)} in process 0"
            for index, own in enumerate(others, start=1)
            for name in sorted(first.keys() | own)
            if own.get(name) != first.get(name)
        ]
        if differing:
            error = ProcessError(
                f"the {self.count} processes of a run must see the same, but {listed(differing, 6)}. Give all of them "
                "the same files, versions and flags"
            )
            error.is_known_to_all = True
            raise error


ALONE = Processes()


def _attempted(work: Callable[[], Result]) -> tuple[Result | None, BaseException | None]:
    """(what the work came to, the error that it met)."""
    try:
        return work(), None
    except (SystemExit, KeyboardInterrupt):  # this process ends now, and the others see that it has gone
        raise
    except BaseException as error:  # noqa: BLE001  # it is raised again where all know of it
        return None, error


@contextmanager
def reached() -> Iterator[None]:
    """Raises `ProcessError` where the other processes cannot be reached any more."""
    try:
        yield
    except RuntimeError as problem:
        error = ProcessError(
            f"another process of the run has ended or cannot be reached any more ({first_line(problem)}); what it said "
            "before tells why. The newest checkpoint goes on with --resume"
        )
        error.is_of_a_lost_process = True
        raise error from problem
