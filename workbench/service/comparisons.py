"""Comparisons of selectors in separate processes, started with the same command as in a shell.

All comparisons are in one folder, separate from the runs; `workbench.service.stored_comparison` describes its layout.
``.trash`` contains deleted comparisons, which can be restored. A comparison that was started in a shell with its output
in this folder is shown and stopped like one of the app.

Comparisons are not queued: one is refused while a run trains or waits, or another comparison or a study is running.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.ids import fresh_id, is_plain_name
from jola.system.files import disk_errors
from workbench.service.comparison_plan import Plan, compare_flags
from workbench.service.processes import Turns
from workbench.service.stored_comparison import StoredComparison
from workbench.service.stored_work import WorkStore

COMPARE_COMMAND = (sys.executable, "-m", "jola", "compare")
ALL_DONE = "All of this is done already; add a selector, a K or a seed."


class Comparisons(WorkStore[StoredComparison]):
    """Starts, finds, stops and deletes comparisons.

    Args:
        root: Folder of the comparisons.
        turns: Shared by all work that must not run at the same time.
        command: Command line of ``jola compare``.
        check: Raises `InputError` for settings that this app may not train with.
    """

    def __init__(
        self,
        root: Path,
        turns: Turns,
        command: Sequence[str] = COMPARE_COMMAND,
        check: Callable[[RunConfig], None] = lambda config: None,
    ) -> None:
        super().__init__("comparison", root, turns)
        self.command = tuple(command)
        self.check = check

    def _stored(self) -> Iterator[StoredComparison]:
        """Yield every folder that may be a comparison."""
        with suppress(OSError):
            for entry in os.scandir(self.root):
                if entry.is_dir(follow_symlinks=False) and is_plain_name(entry.name):
                    yield StoredComparison(self.root, entry.name)

    def find(self, id: str | None) -> StoredComparison | None:
        """Return the comparison with this id, or None."""
        if not id or not is_plain_name(id) or (self.root / id).is_symlink():
            return None
        found = StoredComparison(self.root, id)
        return found if found.is_there() else None

    def start(self, config: RunConfig, plan: Plan, heads: int | None = None) -> StoredComparison:
        """Start a comparison in a separate process; ``heads`` is the number of heads of the model, if known.

        Raises `InputError` if a setting is invalid or not allowed, or while other work is running or waiting.
        """
        self.check(config.validate())
        plan.check(config, heads)
        with self.turns.locked():
            self.turns.check(self.noun)
            with disk_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                found = StoredComparison(self.root, fresh_id(config.data.task))
                found.folder.mkdir()
            try:
                self._begin(found, config, plan)
            except InputError:
                if not found.is_there() or found.state != "failed":  # a full disk: the list could not show the reason
                    found.discard()
                raise
        return found

    def resume(self, id: str) -> StoredComparison:
        """Continue a stopped or failed comparison with its missing training runs. Raises `InputError` like `start`."""
        found = self.get(id)
        return self._go_on(found, found.config(), found.plan())

    def extend(self, id: str, plan: Plan, heads: int | None = None) -> StoredComparison:
        """Continue a comparison with another plan, running what is missing of it. Raises `InputError` like `start`."""
        found = self.get(id)
        config = found.config()
        plan.check(config, heads)
        return self._go_on(found, config, plan)

    def _go_on(self, found: StoredComparison, config: RunConfig, plan: Plan) -> StoredComparison:
        self.check(config)
        with self.turns.locked():
            if not found.working and set(plan.cell_names()) <= set(found.ended_cells()):
                raise InputError(ALL_DONE)
            plan.check_halves(found.folder)
            self.turns.check(self.noun)
            self._begin(found, config, plan)
        return found

    def _begin(self, found: StoredComparison, config: RunConfig, plan: Plan) -> None:
        found.write_plan(config, plan)
        self._launch(found)

    def stop(self, id: str) -> None:
        """End the process of a comparison; its results are kept. Does nothing if it has ended already.

        Results are written atomically, so that none is incomplete.
        """
        found = self.get(id)
        if found.working:
            found.write_status(stopped=True)
            self._processes.stop(found)

    def remove(self, id: str) -> None:
        """Move a comparison to the trash; `restore` undoes this. Raises `InputError` while it is running."""
        found = self.get(id)
        if found.working:
            raise InputError("This comparison is running; stop it before you delete it.")
        self._put_in_trash(found)

    def _command(self, found: StoredComparison) -> Sequence[str]:
        return [*self.command, *compare_flags(found.config(), found.plan(), str(found.folder))]
