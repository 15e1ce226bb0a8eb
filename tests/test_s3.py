"""Checkpoints in a bucket: the protocol of S3 against a server on this machine."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from nlsq_sklearn import (
    CheckpointDirectoryError,
    CheckpointNotFoundError,
    CheckpointWarning,
    JSONCheckpoint,
)
from nlsq_sklearn._storage import open_directory
from tests.s3_fit import Interrupter, fit

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

LATEST = "checkpoint_latest.json"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def endpoint():
    """Run a server in a thread of its own, on a port that the system chooses."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def options(endpoint):
    """Return how to reach the server; without retries, so that failures come at once."""
    return {
        "key": "test",
        "secret": "test",
        "endpoint_url": endpoint,
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 5, "read_timeout": 5},
    }


@pytest.fixture
def bucket(options):
    store = s3fs.S3FileSystem(**options)
    name = f"bucket-{uuid.uuid4().hex}"
    store.mkdir(name)
    yield name
    store.rm(name, recursive=True)


@pytest.fixture
def store(options):
    return s3fs.S3FileSystem(**options, use_listings_cache=False)


def checkpoint_in(bucket, options, **more):
    return JSONCheckpoint(f"s3://{bucket}/a/b", storage_options=options, **more)


def record(iteration):
    return {"iteration": iteration, "params": [0.1]}


def test_records_come_back_and_old_ones_are_pruned(bucket, options, store):
    checkpoint = checkpoint_in(bucket, options, max_checkpoints=2, compression=True)
    with pytest.raises(CheckpointNotFoundError):
        checkpoint.load()
    paths = [checkpoint.save(record(i)) for i in range(4)]
    assert checkpoint.load() == record(3)
    assert [info.path for info in checkpoint.list()] == paths[-2:]
    found = sorted(path.rpartition("/")[2] for path in store.ls(f"{bucket}/a/b"))
    assert found == [*(path.rpartition("/")[2] for path in paths[-2:]), LATEST]


def test_a_writer_is_told_of_the_file_of_another_one(bucket, options, store):
    directory = open_directory(f"s3://{bucket}/a", options)
    store.pipe(f"{bucket}/a/file", b"first")
    with pytest.raises(FileExistsError):
        directory.write_new("file", b"second")
    assert directory.read("file", 10) == b"first"
    directory.write("file", b"third")
    assert directory.read("file", 10) == b"third"
    assert directory.read("file", 5) == b"third"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        directory.read("file", 4)


def test_a_listing_is_fresh_whoever_wrote(bucket, options, store):
    directory = open_directory(f"s3://{bucket}/a", options)
    assert directory.names() == []
    for name in ("one", "two"):
        store.pipe(f"{bucket}/a/{name}", b"1")
        assert name in directory.names()
    store.rm(f"{bucket}/a/one")
    assert directory.names() == ["two"]
    directory.remove("one")


def test_a_missing_bucket_is_an_error_at_the_start_and_none_is_made(options, store):
    with pytest.raises(CheckpointDirectoryError, match="misspelled"):
        fit(JSONCheckpoint("s3://misspelled-bucket/a", storage_options=options))
    assert not store.exists("misspelled-bucket")


def test_an_upload_that_breaks_off_leaves_the_old_object_and_is_tried_again(
    bucket, options, endpoint
):
    """Half of the body of a request is let through, then the connection is cut."""
    with Interrupter(endpoint) as interrupter:
        through = {**options, "endpoint_url": interrupter.endpoint}
        checkpoint = checkpoint_in(bucket, through)
        checkpoint.save(record(1))
        interrupter.cut_uploads = True
        with pytest.raises(OSError, match=r"[Cc]onnection|closed|disconnected"):
            checkpoint.save(record(2))
        assert interrupter.n_cut > 0
        assert checkpoint_in(bucket, options).load() == record(1)
        assert len(checkpoint_in(bucket, options).list()) == 1
        interrupter.cut_uploads = False
        checkpoint.save(record(2))
        assert checkpoint.load() == record(2)


def test_a_fit_takes_an_outage_of_the_store_calmly(bucket, options, endpoint):
    with Interrupter(endpoint) as interrupter:
        checkpoint = checkpoint_in(
            bucket, {**options, "endpoint_url": interrupter.endpoint}, interval=0
        )
        with pytest.warns(CheckpointWarning, match="could not be saved"):
            result = fit(checkpoint, on_chunk=interrupter.cut_from_the_fifth_to_the_tenth)
        assert interrupter.n_cut > 0
    assert result == fit(None)
    assert checkpoint_in(bucket, options).load()["phase"] == "finished"


def test_a_server_that_is_not_there_is_an_error_at_the_start(options):
    nowhere = {**options, "endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(CheckpointDirectoryError):
        fit(JSONCheckpoint("s3://bucket/a", storage_options=nowhere))


def test_a_process_that_was_killed_goes_on_from_the_bucket_in_the_same_bits(
    bucket, endpoint, options
):
    """Its credentials and its endpoint come from the environment, as on a spot instance."""
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    command = [sys.executable, "-m", "tests.s3_fit", f"s3://{bucket}/fit"]
    options_of_child = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "pause"], **options_of_child) as child:
        assert child.stdout.readline() == "in mid-pass\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    saved = JSONCheckpoint(f"s3://{bucket}/fit", storage_options=options).load()
    assert saved["phase"] == "streaming"
    finished = subprocess.run([*command, "resume"], check=True, timeout=120, **options_of_child)
    assert json.loads(finished.stdout) == fit(None)
