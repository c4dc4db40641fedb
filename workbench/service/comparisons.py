"""Comparisons of selectors as processes of their own, started with the command that a shell user types.

One folder holds them, beside the runs and never among them: `workbench.service.stored_comparison` describes it, and
``.trash`` holds deleted ones that can be restored. A comparison that was started in a shell with its output in this
folder is shown and stopped like one of the app.

Comparisons are not queued: one is refused while a run trains or waits, and while another comparison is at work.
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
        root: Their folder.
        turns: Shared with everything that must not work at the same time.
        command: What compares: the command line ``jola compare``.
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
        """Every folder that may hold a comparison."""
        with suppress(OSError):
            for entry in os.scandir(self.root):
                if entry.is_dir(follow_symlinks=False) and is_plain_name(entry.name):
                    yield StoredComparison(self.root, entry.name)

    def find(self, id: str | None) -> StoredComparison | None:
        """The comparison with this id, or None."""
        if not id or not is_plain_name(id) or (self.root / id).is_symlink():
            return None
        found = StoredComparison(self.root, id)
        return found if found.is_there() else None

    def start(self, config: RunConfig, plan: Plan, heads: int | None = None) -> StoredComparison:
        """Begin a comparison in a process of its own; ``heads`` are those of the model, where that is known.

        `InputError` when something cannot or may not be compared, while a run trains or waits, and while another
        comparison works.
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
                if not found.is_there() or found.state != "failed":  # a full disk: the list could not say why
                    found.discard()
                raise
        return found

    def resume(self, id: str) -> StoredComparison:
        """Let a comparison that was stopped or failed go on with what is missing. `InputError` as for `start`."""
        found = self.get(id)
        return self._go_on(found, found.config(), found.plan())

    def extend(self, id: str, plan: Plan, heads: int | None = None) -> StoredComparison:
        """Let a comparison go on with another plan and do what it lacks of that. `InputError` as for `start`."""
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
        """End the process of a comparison; its results stay. Nothing happens when it has ended already.

        Results are written in one step, so that nothing is left half done.
        """
        found = self.get(id)
        if found.working:
            found.write_status(stopped=True)
            self._processes.stop(found)

    def remove(self, id: str) -> None:
        """Move a comparison to the trash, from where `restore` brings it back. `InputError` while it works."""
        found = self.get(id)
        if found.working:
            raise InputError("This comparison is running; stop it before you delete it.")
        self._put_in_trash(found)

    def _command(self, found: StoredComparison) -> Sequence[str]:
        return [*self.command, *compare_flags(found.config(), found.plan(), str(found.folder))]
