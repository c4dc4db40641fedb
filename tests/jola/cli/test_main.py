"""The command line as a whole: help, exit codes and imports."""

import ast
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests import ROOT
from tests.jola.cli.commands import Result


class TestHelp:
    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ([], ["train", "evaluate", "generate", "runs", "assets"]),
            (["train"], ["--resume", "--json", "λ"]),
            (["evaluate"], ["--task", "--base", "--no-options", "--test-size", "--model", "--json", "--metrics"]),
            (["generate"], ["--adapter", "--show", "--max-new-tokens", "--strength", "--json"]),
            (["runs"], ["list", "show", "remove"]),
            (["runs", "list"], ["--json"]),
            (["runs", "show"], ["--json"]),
            (["runs", "remove"], ["Ids of runs"]),
            (["assets"], ["show", "fetch", "remove"]),
            (["assets", "show"], ["--json"]),
            (["assets", "fetch"], ["Names of assets"]),
            (["assets", "remove"], ["Names of assets"]),
        ],
    )
    def test_each_command_explains_itself(
        self, jola: Callable[..., Result], command: list[str], words: list[str]
    ) -> None:
        shown = jola(*command, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert not [word for word in words if word not in shown.out]

    @pytest.mark.parametrize("command", [[], ["train"], ["runs"], ["export", "merged"], ["grid", "plan"]])
    def test_help_imports_nothing_heavy(self, command: list[str]) -> None:
        code = (
            "import sys\nfrom jola.cli.main import main\n"
            "try:\n    main([*sys.argv[1:], '--help'])\n"
            "finally:\n    print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0
        loaded = set(ast.literal_eval(done.stderr))
        assert "tyro" in loaded
        assert not loaded & {"torch", "transformers", "huggingface_hub", "nnsight", "numpy", "scipy", "pandas"}

    @pytest.mark.parametrize("command", [[], ["nonsense"], ["train", "--nonsense"], ["train", "--epochs", "many"]])
    def test_what_is_no_command_is_exit_code_2(self, jola: Callable[..., Result], command: list[str]) -> None:
        result = jola(*command)
        assert (result.code, result.out) == (2, "")
        assert result.err
        assert "Traceback" not in result.err
