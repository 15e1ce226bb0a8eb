"""Files appear whole or not at all, whoever reads, writes, dies or cleans up at the same time."""

import errno
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlsq_sklearn._storage import local
from nlsq_sklearn._storage.local import LocalDirectory

_MAX_BYTES = 2**24
_PREFIX = ".nlsq_sklearn-"

# Other processes load the module alone: without JAX they start in no time.
_LOAD = f"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("storage", {local.__file__!r})
storage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(storage)
directory = storage.LocalDirectory(sys.argv[1])

def content(seed):
    "Return bytes that tell by themselves whether they are whole; sizes differ widely."
    size = 100 + 7919 * seed % 300_000
    return b"%d:" % size + bytes([65 + seed % 26]) * size
"""


def _start(code, directory, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", _LOAD + code, str(directory), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _is_whole(content):
    size, _, body = content.partition(b":")
    return len(body) == int(size) and len(set(body)) == 1


@pytest.fixture
def directory(tmp_path):
    directory = LocalDirectory(tmp_path / "checkpoints")
    directory.create()
    return directory


def _temporaries(directory):
    return [name for name in directory.names() if name.startswith(_PREFIX)]


def test_a_reader_never_sees_half_a_file_while_another_process_rewrites_it(directory):
    directory.write("file", b"5:aaaaa")
    writer = _start(
        """
for seed in range(500):
    directory.write("file", content(seed))
""",
        directory.path,
    )
    seen = set()
    with writer:
        while writer.poll() is None:
            content = directory.read("file", _MAX_BYTES)
            assert _is_whole(content)
            seen.add(len(content))
    assert writer.returncode == 0
    assert len(seen) > 10, "the reader met the writer too seldom to tell anything"
    assert directory.names() == ["file"]


def test_a_reader_never_sees_half_a_new_file(directory):
    writer = _start(
        """
for seed in range(300):
    directory.write_new(f"file{seed:03d}", content(seed))
""",
        directory.path,
    )
    n_reads = 0
    with writer:
        while writer.poll() is None:
            names = [name for name in directory.names() if not name.startswith(_PREFIX)]
            for name in names[-2:]:
                assert _is_whole(directory.read(name, _MAX_BYTES))
                n_reads += 1
    assert writer.returncode == 0
    assert n_reads > 20, "the reader met the writer too seldom to tell anything"
    assert directory.names() == [f"file{seed:03d}" for seed in range(300)]


def _refuse_links(*arguments, **keywords):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_write_new_refuses_a_name_that_exists_and_leaves_its_file(
    directory, monkeypatch, has_hard_links
):
    if not has_hard_links:
        monkeypatch.setattr(os, "link", _refuse_links)
    directory.write_new("file", b"first")
    with pytest.raises(FileExistsError):
        directory.write_new("file", b"second")
    assert directory.read("file", _MAX_BYTES) == b"first"
    assert directory.names() == ["file"]


def test_two_processes_that_write_new_files_lose_nothing(directory):
    code = """
print("ready", flush=True)
sys.stdin.readline()
for text in range(200):
    number = 0
    while True:
        try:
            directory.write_new(f"{number:04d}", f"{sys.argv[2]} {text}".encode())
            break
        except FileExistsError:
            number = 1 + max(int(n) for n in directory.names() if not n.startswith("."))
"""
    writers = [_start(code, directory.path, label) for label in "ab"]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    contents = [directory.read(name, _MAX_BYTES).decode() for name in directory.names()]
    assert sorted(contents) == sorted(f"{label} {i}" for label in "ab" for i in range(200))
    owners = [content[0] for content in contents]
    assert sum(a != b for a, b in itertools.pairwise(owners)) > 5, "they did not meet"


def test_a_file_is_safe_on_the_disk_before_it_gets_its_name_and_the_name_is_too(
    directory, monkeypatch
):
    """The order of system calls that a power cut can't hurt: data, name, directory."""
    calls = []
    fsync, replace, link = os.fsync, Path.replace, os.link

    def watch_fsync(descriptor):
        is_directory = os.path.samestat(os.fstat(descriptor), directory.path.stat())
        calls.append("directory" if is_directory else f"{os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def watch_replace(*arguments):
        calls.append("name")
        return replace(*arguments)

    def watch_link(*arguments):
        calls.append("name")
        link(*arguments)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "replace", watch_replace)
    monkeypatch.setattr(os, "link", watch_link)
    directory.write("file", b"12345")
    directory.write_new("new", b"1234567")
    assert calls == ["5 bytes", "name", "directory", "7 bytes", "name", "directory"]


@pytest.mark.parametrize("write", [LocalDirectory.write, LocalDirectory.write_new])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(directory, monkeypatch, write):
    directory.write("old", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(directory, "old" if write is LocalDirectory.write else "new", b"new")
    assert directory.names() == ["old"]
    assert directory.read("old", _MAX_BYTES) == b"old"


@pytest.mark.skipif(os.name != "posix", reason="directories are flushed on POSIX only")
def test_a_file_system_that_cannot_flush_a_directory_still_takes_files(directory, monkeypatch):
    """Some network and FUSE file systems answer EINVAL; the file itself is safe then."""
    fsync = os.fsync

    def refuse_directories(descriptor):
        if os.path.samestat(os.fstat(descriptor), directory.path.stat()):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    directory.write_new("file", b"new")
    directory.write("file", b"newer")
    assert directory.read("file", _MAX_BYTES) == b"newer"


def test_what_a_killed_writer_left_is_swept(directory):
    writer = _start(
        """
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
directory.write("file", b"never seen")
""",
        directory.path,
    )
    writer.communicate(timeout=60)
    assert writer.returncode < 0
    assert len(_temporaries(directory)) == 1
    directory.create()
    assert directory.names() == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state can't be told")
def test_what_a_killed_writer_left_is_swept_before_its_parent_asks_for_it(directory):
    """Until then the writer is a zombie, which still takes signals."""
    writer = _start(
        """
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
directory.write("file", b"never seen")
""",
        directory.path,
    )
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # dead, and left a zombie
    os.kill(writer.pid, 0)
    assert len(_temporaries(directory)) == 1
    directory.create()
    assert directory.names() == []
    writer.communicate(timeout=60)


def test_what_a_living_writer_is_at_stays_and_becomes_its_file(directory):
    writer = _start(
        """
def wait(descriptor):
    print("writing", flush=True)
    sys.stdin.readline()
os.fsync = wait
directory.write("file", b"late")
""",
        directory.path,
    )
    assert writer.stdout.readline() == "writing\n"
    directory.create()
    assert len(_temporaries(directory)) == 1
    writer.communicate("go on\n" * 2, timeout=60)
    assert writer.returncode == 0
    assert directory.names() == ["file"]
    assert directory.read("file", _MAX_BYTES) == b"late"


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(60)
    return process.pid


def test_what_another_host_left_is_swept_only_when_it_is_old(directory, dead_pid):
    # The other host's name begins with ours, and its next part is the id of a dead process here.
    name = f"{_PREFIX}{socket.gethostname()}-{dead_pid}-{os.getpid()}-0a1b2c3d"
    directory.write(name, b"half")
    directory.create()
    assert directory.names() == [name]
    two_hours_ago = time.time() - 7200
    os.utime(directory.path / name, (two_hours_ago, two_hours_ago))
    directory.create()
    assert directory.names() == []


@pytest.mark.parametrize("pid", ["0", "-1", "²", "99999999999999999999", "x", "", "1.5"])
def test_a_strange_temporary_name_does_not_stand_in_the_way(directory, pid):
    directory.write(f"{_PREFIX}{socket.gethostname()}-{pid}-0a1b2c3d", b"strange")
    directory.create()
    directory.write("file", b"content")
    assert directory.read("file", _MAX_BYTES) == b"content"


def test_a_leftover_that_cannot_be_removed_does_not_stand_in_the_way(directory, dead_pid):
    """For instance one of another user in a shared directory; here a directory of that name."""
    leftover = directory.path / f"{_PREFIX}{socket.gethostname()}-{dead_pid}-0a1b2c3d"
    leftover.mkdir()
    directory.create()
    directory.write("file", b"content")
    assert directory.read("file", _MAX_BYTES) == b"content"


def test_a_symbolic_link_is_not_followed_by_read(directory, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (directory.path / "file").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        directory.read("file", _MAX_BYTES)


def test_a_symbolic_link_is_replaced_by_write_and_what_it_points_to_stays(directory, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (directory.path / "file").symlink_to(target)
    with pytest.raises(FileExistsError):
        directory.write_new("file", b"content")
    directory.write("file", b"content")
    assert target.read_bytes() == b"precious"
    assert directory.read("file", _MAX_BYTES) == b"content"


def test_a_file_over_the_limit_is_refused_and_one_at_the_limit_is_read(directory):
    directory.write("file", b"x" * 100)
    assert directory.read("file", 100) == b"x" * 100
    with pytest.raises(ValueError, match="more than 99 bytes"):
        directory.read("file", 99)


def test_reading_a_directory_is_an_error_and_leaves_no_open_descriptor(directory):
    (directory.path / "file").mkdir()
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        with pytest.raises(OSError, match="directory"):
            directory.read("file", _MAX_BYTES)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_reading_a_named_pipe_is_an_error_not_a_wait_without_end(directory):
    pipe = directory.path / "file"
    os.mkfifo(pipe)
    errors = []

    def read():
        try:
            directory.read("file", _MAX_BYTES)
        except (OSError, ValueError) as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    waited = reader.is_alive()
    if waited:  # let it go
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        reader.join(5)
    assert not waited
    assert len(errors) == 1


def test_a_missing_directory_has_no_names_and_create_makes_it_with_its_parents(tmp_path):
    directory = LocalDirectory(tmp_path / "a" / "b")
    assert directory.names() == []
    with pytest.raises(FileNotFoundError):
        directory.read("file", _MAX_BYTES)
    with pytest.raises(FileNotFoundError):
        directory.write("file", b"content")
    directory.create()
    directory.create()
    directory.write("file", b"content")
    assert directory.names() == ["file"]


def test_a_file_in_the_place_of_the_directory_is_an_oserror(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OSError, match="exists"):
        LocalDirectory(tmp_path / "file").create()
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_relative_path_and_the_home_directory_are_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert LocalDirectory("a/../b").path == tmp_path / "b"
    assert LocalDirectory("~/a").path == tmp_path / "home" / "a"


_operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "write_new", "remove"]),
        st.sampled_from("abc"),
        st.binary(max_size=200),
    ),
    max_size=12,
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=_operations)
def test_the_directory_is_a_dictionary_of_bytes(operations):
    expected = {}
    path = tempfile.mkdtemp()
    try:
        directory = LocalDirectory(path)
        for operation, name, content in operations:
            if operation == "remove":
                directory.remove(name)
                expected.pop(name, None)
            elif operation == "write_new" and name in expected:
                with pytest.raises(FileExistsError):
                    directory.write_new(name, content)
            else:
                getattr(directory, operation)(name, content)
                expected[name] = content
        found = {name: directory.read(name, _MAX_BYTES) for name in directory.names()}
        assert found == expected
    finally:
        shutil.rmtree(path)
