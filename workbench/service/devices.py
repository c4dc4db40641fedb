"""The accelerators of this machine, and the assignment of runs to them: one run on each."""

from collections.abc import Iterable, Sequence
from functools import cache

from jola.errors import InputError
from jola.runs.run import Run

AUTO = "auto"
CPU = "cpu"


@cache
def accelerators() -> tuple[str, ...]:
    """Return the names of the accelerators: ``cuda:0``, ``cuda:1``, or ``mps``; empty if there is none."""
    import torch

    if not torch.accelerator.is_available():
        return ()
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    if kind.type == "mps":
        return ("mps",)
    return tuple(f"{kind.type}:{number}" for number in range(torch.accelerator.device_count()))


class Places:
    """Tracks the devices on which runs train, and assigns a device to the next run.

    On a machine with at most one accelerator, up to ``at_once`` runs train at the same time, on any device. With
    several, each accelerator and the processor takes one run, and a run with a device map needs all accelerators.

    Args:
        devices: Result of `accelerators`.
        running: Runs that are training.
        at_once: Maximum number of concurrent runs on a machine with at most one accelerator.
    """

    def __init__(self, devices: Sequence[str], running: Iterable[Run], at_once: int = 1) -> None:
        self.devices = tuple(devices)
        self._room = at_once
        self._taken: dict[str, str] = {}
        for run in running:
            self._room -= 1
            for device in self._used_by(run):
                self._taken.setdefault(device, run.id)

    @property
    def choice(self) -> bool:
        """Whether there are several devices to choose from."""
        return len(self.devices) > 1

    @property
    def full(self) -> bool:
        """Whether a run that names no device has to wait."""
        return set(self.devices) <= set(self._taken) if self.choice else self._room <= 0

    def take(self, run: Run) -> str | None:
        """Reserve a device and return it; empty if the run names it or there is no choice, None if none is free."""
        if not self.choice:
            if self._room <= 0:
                return None
            self._room -= 1
            return ""
        wished = self._wished_by(run)
        free = [device for device in (wished or self.devices) if device not in self._taken]
        if not free or len(free) < len(wished):
            return None
        for device in wished or free[:1]:
            self._taken[device] = run.id
        return "" if wished else free[0]

    def blocker(self, run: Run) -> tuple[str, str] | None:
        """Return (device, id of the run using it) if a run waits for a device that it names, otherwise None."""
        busy = [device for device in self._wished_by(run) if device in self._taken] if self.choice else []
        return (busy[0], self._taken[busy[0]]) if busy else None

    def check(self, device: str) -> None:
        """Raise `InputError` for a device that this machine does not have."""
        named = self._named(device)
        if named not in (AUTO, CPU, *self.devices):
            *others, last = *self.devices, CPU
            has = f"{', '.join(others)} and {last}" if others else last
            raise InputError(f"There is no device {device!r} on this machine; it has {has}.")

    def _named(self, device: str) -> str:
        """Resolve ``cuda`` to the first device of its kind."""
        return next((name for name in self.devices if device == name.partition(":")[0]), device)

    def _wished_by(self, run: Run) -> tuple[str, ...]:
        """Return the devices that a run names; empty if it accepts any."""
        settings = run.run_config().model
        if settings.device_map:
            return self.devices
        return () if settings.device == AUTO else (self._named(settings.device),)

    def _used_by(self, run: Run) -> tuple[str, ...]:
        if not self.choice:
            return ()
        try:
            assigned = run.status().get("device")
            # A run that was started elsewhere without a device uses the first one.
            return (assigned,) if assigned else self._wished_by(run) or self.devices[:1]
        except InputError:  # damaged settings
            return self.devices[:1]
