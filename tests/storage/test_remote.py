"""A directory of a store behaves as one of the disk; what fails in a store is an OSError."""

import errno
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from nlsq_sklearn import JSONCheckpoint
from nlsq_sklearn._storage import absolute, below, open_directory
from nlsq_sklearn._storage.local import LocalDirectory
from nlsq_sklearn._storage.remote import RemoteDirectory, StoreError

_MAX_BYTES = 2**20


def new_url():
    """Return the URL of a directory that no other test has: the memory's files are global."""
    return f"memory://{uuid.uuid4().hex}/checkpoints"


@pytest.fixture
def url():
    url = new_url()
    yield url
    root = url.removesuffix("/checkpoints")
    if fsspec.filesystem("memory").exists(root):
        fsspec.filesystem("memory").rm(root, recursive=True)


@pytest.fixture
def directory(url):
    return open_directory(url, {})


def test_the_disk_is_one_kind_of_directory_and_a_store_another(tmp_path, url):
    assert isinstance(open_directory(url, {}), RemoteDirectory)
    for path in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        directory = open_directory(path, {})
        assert isinstance(directory, LocalDirectory)
        assert directory.path == tmp_path
        assert str(absolute(path)) == str(tmp_path)
    assert absolute(url) == url
    assert below(f"{url}/", "fit") == f"{url}/fit"


def test_fsspec_is_imported_only_for_a_url(tmp_path):
    code = f"""
import sys
import nlsq_sklearn
checkpoint = nlsq_sklearn.JSONCheckpoint({str(tmp_path)!r})
checkpoint.save({{"iteration": 1, "params": [1.0]}})
checkpoint.load()
assert "fsspec" not in sys.modules
nlsq_sklearn.JSONCheckpoint("memory://somewhere")
assert "fsspec" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


_operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "write_new", "remove"]),
        st.sampled_from("abc"),
        st.binary(max_size=200),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(operations=_operations)
def test_the_directory_is_a_dictionary_of_bytes(operations):
    expected, directory = {}, open_directory(new_url(), {})
    directory.create()
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
    assert {name: directory.read(name, _MAX_BYTES) for name in directory.names()} == expected


def test_folders_and_markers_are_no_files_and_a_missing_directory_has_none(directory, url):
    assert directory.names() == []
    directory.write("file", b"content")
    open_directory(below(url, "folder"), {}).write("inner", b"other")
    assert directory.names() == ["file"]
    assert directory.location("file") == f"{url}/file"
    with pytest.raises(FileNotFoundError):
        directory.read("none", _MAX_BYTES)


def test_a_file_over_the_limit_is_refused_and_one_at_the_limit_is_read(directory):
    directory.write("file", b"x" * 100)
    assert directory.read("file", 100) == b"x" * 100
    with pytest.raises(ValueError, match="more than 99 bytes"):
        directory.read("file", 99)


class ClientError(Exception):
    """As botocore's or aiohttp's: an exception that derives from none of Python's."""


OPERATIONS = {
    "names": ("ls", lambda directory: directory.names()),
    "read": ("cat_file", lambda directory: directory.read("file", 10)),
    "write": ("pipe_file", lambda directory: directory.write("file", b"")),
    "write_new": ("pipe_file", lambda directory: directory.write_new("new", b"")),
    "remove": ("rm_file", lambda directory: directory.remove("file")),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_exception_of_a_client_library_is_an_oserror_and_a_bug_stays_a_bug(
    directory, monkeypatch, operation
):
    directory.write("file", b"")
    method, operate = OPERATIONS[operation]

    def fail_with(error):
        def fail(*arguments, **keywords):
            raise error

        monkeypatch.setattr(MemoryFileSystem, method, fail)

    fail_with(ClientError("connection lost"))
    with pytest.raises(StoreError, match=r"test_remote\.ClientError: connection lost") as raised:
        operate(directory)
    assert isinstance(raised.value.__cause__, ClientError)
    for error in (PermissionError(errno.EACCES, "no"), TypeError("a bug"), KeyboardInterrupt()):
        fail_with(error)
        with pytest.raises(type(error)) as raised:
            operate(directory)
        assert raised.value is error


@pytest.mark.parametrize("answer", [NotImplementedError(), OSError(errno.ENOSYS, "not here")])
def test_a_store_without_conditional_uploads_is_asked_before_one(directory, monkeypatch, answer):
    pipe_file = MemoryFileSystem.pipe_file

    def refuse_conditions(self, path, content, mode="overwrite"):
        if mode == "create":
            raise answer
        pipe_file(self, path, content)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse_conditions)
    directory.write_new("file", b"first")
    with pytest.raises(FileExistsError):
        directory.write_new("file", b"second")
    assert directory.read("file", 10) == b"first"


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("nowhere://bucket/directory", ValueError, "nowhere"),
        ("simplecache::memory://directory", ValueError, "chain"),
    ],
)
def test_a_url_that_is_of_no_store_is_refused_at_once(path, error, words):
    with pytest.raises(error, match=words):
        JSONCheckpoint(path)


def test_a_url_that_went_through_pathlib_is_refused_not_taken_for_a_folder():
    with pytest.raises(ValueError, match="string"):
        JSONCheckpoint(Path("s3://bucket/directory"))


def test_storage_options_reach_the_store_and_are_not_shown(url):
    checkpoint = JSONCheckpoint(url, storage_options={"key": "secret"})
    assert checkpoint._files._files.storage_options == {"key": "secret"}
    assert "secret" not in repr(checkpoint)
    assert isinstance(hash(checkpoint), int)
    checkpoint.save({"iteration": 1, "params": [1.0]})
    assert "secret" not in str(fsspec.filesystem("memory").cat(f"{url}/*"))
    with pytest.raises(TypeError, match="storage_options") as raised:
        JSONCheckpoint(url, storage_options="secret")
    assert "secret" not in str(raised.value)
