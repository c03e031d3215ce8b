"""The whole table of commands: what prints data prints it as JSON too, and a user's mistake is exit code 2."""

import os
import subprocess
import sys

import pytest
from typer.main import get_command

from docs.generate.reference import every_command
from ups_server.cli import app, main

NOBODY = ["--url", "http://127.0.0.1:9"]
MISTAKES = {
    "serve": ["--host", "0.0.0.0"],
    "open": NOBODY,
    "doctor": ["--data-dir"],
    "solve": ["heat", "-o", "x.nc"],
    "equation": ["u_t = u_xx +"],
    "evaluate": ["numerical", "absent.h5"],
    "train recipe": ["absent.yaml"],
    "train replay": ["absent"],
    "train baseline": ["fno", "absent.yaml"],
    "adapt": ["ups-mini", "absent.h5", "--n-trajectories", "2", "-o", "out"],
    "data generate": ["heat", "-n", "1", "-o", "x.h5"],
    "data merge": ["absent.h5"],
    "data check": ["absent.h5"],
    "data inspect": ["absent.h5"],
    "data show": ["absent.h5", "-o", "x.png"],
    "data convert": ["absent.h5", "-o", "x.nc"],
    "files upload": ["absent.h5"],
    "files list": NOBODY,
    "files show": ["file-1", *NOBODY],
    "files download": ["file-1", "file.nc", *NOBODY],
    "files delete": ["file-1", *NOBODY],
    "families": ["heat"],
    "models list": ["--data-dir"],
    "models show": ["gpt"],
    "models delete": ["gpt"],
    "models export": ["gpt", "-o", "x.zip"],
    "jobs list": [],
    "jobs show": ["ft-0"],
    "jobs checkpoints": ["ft-0"],
    "jobs cancel": ["ft-0"],
    "jobs resume": ["ft-0"],
    "jobs result": ["ro-0", "-o", "x.nc"],
    "jobs work": ["--data-dir"],
    "jobs delete": ["ft-0"],
    "jobs follow": ["ft-0"],
    "keys create": ["notebook", "--scope", "everything"],
    "keys list": ["--data-dir"],
    "keys revoke": ["absent"],
    "keys delete": ["absent"],
}
"""For every command, words that cannot be right in an empty folder."""

SILENT = {
    *(
        "serve",
        "open",
        "train recipe",
        "train replay",
        "train baseline",
        "data generate",
        "data merge",
        "data show",
        "data convert",
    ),
    *(
        "files delete",
        "files download",
        "models delete",
        "models export",
        "jobs cancel",
        "jobs resume",
        "jobs result",
        "jobs work",
        "jobs delete",
    ),
    *("keys revoke", "keys delete"),
}
"""Commands that do something, and say so in a remark on stderr: they have no data to print."""


def test_what_prints_data_prints_json() -> None:
    found = {name.removeprefix("ups "): command for name, command in every_command("ups", get_command(app))}
    assert found.keys() == MISTAKES.keys()
    with_json = {name for name, command in found.items() if any("--json" in option.opts for option in command.params)}
    assert with_json == found.keys() - SILENT


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_with_2_and_prints_no_data(
    name: str,
    tmp_path: os.PathLike[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), *MISTAKES[name]])
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err


def test_shells_complete_commands() -> None:
    """As bash asks for what follows `ups d`, after `ups --install-completion bash`."""
    asked = {**os.environ, "_UPS_COMPLETE": "complete_bash", "COMP_WORDS": "ups d", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from ups_server.cli import main; main()"], env=asked, capture_output=True, text=True
    )
    assert set(done.stdout.split()) == {"doctor", "data"}, done.stderr
    script = subprocess.run(
        [sys.executable, "-c", "from ups_server.cli import main; main(['--show-completion', 'bash'])"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
    )
    assert "_UPS_COMPLETE=complete_bash" in script.stdout, script.stderr
