"""Export of trained edits: plain checkpoints, adapters of other libraries, scripts and tables.

    from jola.export import export_merged

    report = export_merged(model, "my-model", dtype="float16")
    print(report.describe())

docs/exporting.md describes the formats.
"""

from jola.export.affine import Affine, affine_edits
from jola.export.compact import AdapterReport, export_adapter
from jola.export.exactness import PROMPTS, Deviation
from jola.export.fold import LOST_LIMIT, FoldReport, export_merged, merge, merge_and_unload
from jola.export.gguf_file import GGUFReport, export_gguf
from jola.export.hub import push_adapter, push_to_hub
from jola.export.ia3 import IA3Report, export_ia3
from jola.export.run_facts import run_facts, run_results
from jola.export.standalone import StandaloneReport, export_standalone
from jola.export.tables import TableReport, export_edits

__all__ = [
    "LOST_LIMIT",
    "PROMPTS",
    "AdapterReport",
    "Affine",
    "Deviation",
    "FoldReport",
    "GGUFReport",
    "IA3Report",
    "StandaloneReport",
    "TableReport",
    "affine_edits",
    "export_adapter",
    "export_edits",
    "export_gguf",
    "export_ia3",
    "export_merged",
    "export_standalone",
    "merge",
    "merge_and_unload",
    "push_adapter",
    "push_to_hub",
    "run_facts",
    "run_results",
]
