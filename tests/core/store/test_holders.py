"""A process is known to have ended only where that is certain."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.store.holders import has_ended, this_process

CHILD = """import json, os, sys
from retrieval_core.store.holders import this_process
os.setuid(int(sys.argv[1]))
print(json.dumps(this_process()), flush=True)
input()
"""


def test_this_process_lives_and_one_with_another_start_has_ended() -> None:
    facts = this_process()
    assert not has_ended(facts)
    pid, started = facts["process"].split()
    assert has_ended(facts | {"process": f"{pid} {int(started) + 1}"}), "its id was given to another process"
    assert not has_ended(facts | {"machine": "another", "process": "999999 1"})


def child(user_id: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, str(user_id)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_child_that_was_killed_has_ended_even_before_its_parent_learns_of_it() -> None:
    with child(os.getuid()) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert not has_ended(facts)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert has_ended(facts)
    assert has_ended(facts)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of other users")
def test_a_process_of_another_user_lives() -> None:
    with child(65534) as process:
        assert process.stdout is not None
        assert not has_ended(json.loads(process.stdout.readline()))
        process.kill()


@given(st.dictionaries(st.sampled_from(["machine", "process"]), st.text() | st.integers() | st.none()))
def test_facts_that_mean_nothing_say_nothing(facts: dict[str, str]) -> None:
    assert not has_ended(facts)
    assert not has_ended(facts | {"machine": this_process()["machine"], "process": str(facts.get("process"))})
