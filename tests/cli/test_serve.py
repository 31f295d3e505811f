"""`loralab serve`: as a process, on a small model, and what its flags say of the engine."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from loralab.cli.parser import parse_arguments
from loralab.cli.settings import build_config
from loralab.cli.verbs.serve import ServeConfig, engine_config


@pytest.mark.parametrize("words, compiles", [([], True), (["--compile"], True), (["--compile", "no"], False)])
def test_steps_are_compiled_unless_it_is_told_not_to(words: list[str], compiles: bool) -> None:
    arguments = parse_arguments("loralab serve", ServeConfig, ["--model", "m", *words])
    assert engine_config(build_config(ServeConfig, arguments.flags, {}, "")).compile is compiles


def test_without_a_compiler_it_says_so_and_serves(tiny: Path) -> None:
    command = [sys.executable, "-m", "loralab", "serve", "--model", str(tiny), "--port", "0", "--compile"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "CXX": "/nowhere/g++"})
    try:
        assert server.stderr is not None
        said = []
        while not (said and "curl" in said[-1]):
            said.append(server.stderr.readline())
            assert said[-1], said
        assert any("no compiled kernels, for no C++ compiler was found (/nowhere/g++)" in line for line in said), said
        found = re.search(r"http://127\.0\.0\.1:\d+", said[-1])
        assert found is not None
        with urllib.request.urlopen(f"{found[0]}/ready", timeout=30) as answer:
            assert answer.status == 200
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
