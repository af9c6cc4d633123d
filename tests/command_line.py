"""The command line, called in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from hf_toedit.cli.command import app


def run(*arguments):
    """A command that must succeed; its stdout."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr or repr(result.exception)
    return result.stdout


def fail(*arguments):
    """A command that must be refused in one line, the last of stderr; that line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output + repr(result.exception)
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.splitlines()[-1] == line
    return line
