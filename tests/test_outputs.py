"""Output folders: whole or not at all, on any kind of folder, and nothing stays of runs that were killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from crashes import crashes
from small_disks import mounted

from hf_toedit import SourceError
from hf_toedit.files import outputs, processes
from hf_toedit.files.outputs import new_folder, scratch_folder

pytestmark = pytest.mark.usefixtures("folder")
# A run that writes beside `out`, into the empty folder `empty` and to the temporary folder until it is killed.
RUN = """
import sys, time
from pathlib import Path
from hf_toedit.files.outputs import new_folder, scratch_folder
with new_folder(Path("out")) as one, new_folder(Path("empty")) as two, scratch_folder() as three:
    for folder in (one, two, three):
        (folder / "half").write_text("half of the rows")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(folder, monkeypatch):
    """A temporary folder for scratch files; the tests' own."""
    place = folder / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield place
    monkeypatch.setattr(tempfile, "tempdir", None)


def write(path):
    with new_folder(Path(path)) as folder:
        (folder / "file").write_text("whole")
        (folder / "data").mkdir()
        (folder / "data/rows").write_text("whole")


def leftovers():
    return sorted(path.parent.name for path in Path().glob("**/.toedit.*.partial"))


def test_what_a_killed_run_leaves_is_removed_by_the_next_and_a_live_run_keeps_its_work(folder, temporary):
    Path("empty").mkdir()
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        write("other")
        with scratch_folder():
            pass
        assert leftovers() == ["", "empty", "tmp"]
        with pytest.raises(SourceError, match="another run is writing to the output 'empty': name another folder"):
            write("empty")
        process.send_signal(signal.SIGKILL)
    assert leftovers() == ["", "empty", "tmp"]
    write("out")
    assert leftovers() == ["empty", "tmp"]
    write("empty")
    assert leftovers() == ["tmp"]
    with scratch_folder():
        assert leftovers() == ["tmp"]
    assert leftovers() == []
    assert sorted(os.listdir("empty")) == sorted(os.listdir("out")) == ["data", "file"]


@pytest.mark.parametrize(
    ("changed", "has_ended"),
    [
        ({}, False),
        ({"pid": "1", "started": "123456789012"}, True),  # the number is another process's now
        ({"pid": str(2**22 + 1)}, True),
        ({"boot": "0123456789abcdef"}, True),
        ({"host": "other-0123abcd"}, False),  # it may be alive there
        ({"host": "other-0123abcd", "boot": "0123456789abcdef", "pid": str(2**22 + 1)}, False),
    ],
)
def test_only_a_run_of_this_host_that_has_certainly_ended_is_taken_for_ended(changed, has_ended):
    pid = os.getpid()
    own = {"host": processes._host(), "boot": processes._boot(), "pid": str(pid), "started": processes._started(pid)}
    name = ".toedit.{host}.{boot}.{pid}.{started}.0123abcd.partial".format(**{**own, **changed})
    assert outputs.RUN_FOLDER.fullmatch(name)
    assert outputs._has_ended(name) is has_ended


@pytest.mark.parametrize("name", ["data", ".toedit.1a2b3c4d.partial", ".toedit.a.b.c.d.e.partial", ".toedit"])
def test_a_folder_with_another_name_is_not_a_run(name):
    assert not outputs._has_ended(name)


def test_a_container_is_another_host_after_each_boot(monkeypatch):
    """The numbers of its processes' name spaces, and its own name, can be those of a container elsewhere."""
    monkeypatch.setattr(processes, "_link", lambda _: "pid:[4026532000]")
    names = set()
    for boot in ("a", "b"):
        processes._host.cache_clear()
        monkeypatch.setattr(processes, "_boot", lambda boot=boot: boot)
        names.add(processes._host())
    processes._host.cache_clear()
    assert len(names) == 2


def test_a_dead_process_that_nobody_collected_has_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes._started(process.pid) == "never"
    process.wait()
    assert processes._started(process.pid) == "never"


def test_an_empty_folder_is_written_into_and_stays_the_same_folder():
    Path("empty").mkdir(mode=0o750)
    before = os.stat("empty")
    write("empty")
    after = os.stat("empty")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert Path("empty/data/rows").read_text() == "whole"


def test_an_empty_mount_point_is_written_into(folder):
    with mounted(folder / "disk"):
        write("disk")
        assert sorted(os.listdir("disk")) == ["data", "file"]
    assert os.listdir("disk") == []


@pytest.mark.parametrize("place", ["new", "empty"])
def test_work_is_kept_when_something_takes_its_place_meanwhile(place):
    Path("empty").mkdir()
    beside = {"new": "new-2", "empty": "empty/empty"}[place]

    def overtaken():
        with new_folder(Path(place)) as folder:
            (folder / "file").write_text("hours of work")
            Path(place).mkdir(exist_ok=True)
            Path(place, "file").write_text("somebody else's")

    with pytest.raises(SourceError) as error:
        overtaken()
    says = f"what was to be written there is in {str(Path(beside).resolve())!r}"
    assert str(error.value).startswith(f"can't write the output {place!r}: ")
    assert str(error.value).endswith(says)
    assert Path(beside, "file").read_text() == "hours of work"
    assert Path(place, "file").read_text() == "somebody else's"
    assert leftovers() == []


def test_an_output_on_a_disk_that_can_only_be_read_is_one_line(folder):
    with mounted(folder / "disk", "ro"):
        for name in ("disk", "disk/out"):
            with pytest.raises(SourceError, match=f"^can't write the output '{name}': Read-only file system$"):
                write(name)


def contents():
    return {str(path): path.read_text() for path in sorted(Path().glob("**/*")) if path.is_file()}


def test_a_run_killed_at_any_step_leaves_a_whole_folder_or_none_and_the_next_removes_the_rest():
    for _ in crashes(lambda: write("deep/out")):
        assert not Path("deep/out").exists() or os.listdir("deep/out") == ["data", "file"]
        write("deep/other")
        assert contents() == {"deep/other/data/rows": "whole", "deep/other/file": "whole"}
        shutil.rmtree("deep/other")
    assert contents() == {"deep/out/data/rows": "whole", "deep/out/file": "whole"}


def test_a_run_killed_while_it_fills_an_empty_folder_has_not_moved_the_data_before_the_rest():
    Path("empty").mkdir()
    for _ in crashes(lambda: write("empty")):
        if Path("empty/data").exists():
            assert Path("empty/file").exists()
        for path in Path("empty").glob("[!.]*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        write("empty")
        assert contents() == {"empty/data/rows": "whole", "empty/file": "whole"}
        shutil.rmtree("empty")
        Path("empty").mkdir()
