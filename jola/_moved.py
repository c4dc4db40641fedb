"""Import paths of earlier versions, as aliases of the current modules."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "jola.adapter": "jola.adapters.directory",
    "jola.adapter_card": "jola.adapters.card",
    "jola.adapter_source": "jola.runs.adapter_source",
    "jola.adapter_tensors": "jola.adapters.tensors",
    "jola.assets": "jola.data.assets",
    "jola.catalogue": "jola.data.catalogue",
    "jola.examples": "jola.data.examples",
    "jola.files": "jola.system.files",
    "jola.following": "jola.training.follower",
    "jola.gate_history": "jola.runs.history",
    "jola.gates": "jola.edits.gates",
    "jola.harness": "jola.evaluation.harness",
    "jola.interventions": "jola.edits",
    "jola.loading": "jola.model.loading",
    "jola.masks": "jola.edits.masks",
    "jola.objective": "jola.training.objective",
    "jola.packing": "jola.model.packing",
    "jola.paths": "jola.system.paths",
    "jola.processes": "jola.system.processes",
    "jola.records": "jola.data.records",
    "jola.reference_api": "jola.reference.config",
    "jola.reference_data": "jola.reference.data",
    "jola.run_archive": "jola.runs.archive",
    "jola.run_compare": "jola.runs.compare",
    "jola.run_notes": "jola.runs.notes",
    "jola.selector_grid": "jola.studies.selector_grid",
    "jola.selectors.compare": "jola.studies.comparison",
    "jola.selectors.editing": "jola.studies.editing",
    "jola.selectors.results": "jola.studies.results",
    "jola.selectors.statistics": "jola.studies.statistics",
    "jola.sites": "jola.model.architectures",
    "jola.tasks": "jola.data.tasks",
    "jola.tracing": "jola.model.tracing",
    "jola.trainer": "jola.training.trainer",
    "workbench.selector_report": "workbench.figures.selector_report",
}


class _MovedModules(MetaPathFinder, Loader):
    """Find modules and their submodules by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if _home(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_home(spec.name) or spec.name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the specification; the module was executed under its current name."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def _home(name: str) -> str | None:
    """The current name of a module; None if this is not an old name."""
    if name in MOVED:
        return MOVED[name]
    parent, _, child = name.rpartition(".")
    return f"{MOVED[parent]}.{child}" if parent in MOVED else None


def install() -> None:
    """Make the old import paths work."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
