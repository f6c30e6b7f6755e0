"""Stores on object storage, over HTTP against a server on this machine: the same bits, and no credentials."""

import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from fields import arrays_of, assert_same_bits, files_of, make_field, stored_maps

import musedeep as md
from musedeep.errors import InputError, UsageError
from musedeep.objects import ObjectPath
from musedeep.store import CubeStore, PixelStore

SECRET, KEY = "do-not-tell-anybody-1234", "AKIANOTTOBETOLD"


@pytest.fixture(scope="module")
def bucket():
    """A bucket, with the environment that leads to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="muse")
        yield "s3://muse"
    server.stop()


@pytest.fixture(scope="module")
def field(four, bucket, tmp_path_factory):
    """The field of four with both stores in a bucket, combined."""
    field = make_field(
        files_of(four),
        tmp_path_factory.mktemp("away") / "field",
        offsets=four.settings.combine.offsets,
        pixel_store=f"{bucket}/udf10/pixels.zarr",
        cube_store=f"{bucket}/udf10/cube.zarr",
    )
    md.ingest_exposures(field)
    md.combine_to_store(field)
    return field


def test_the_cube_has_the_same_bits(field, four_maps):
    assert_same_bits(stored_maps(field), four_maps)
    assert not (field.folder / "pixels.zarr").exists() and not (field.folder / "cube.zarr").exists()
    assert not list((field.folder / "pixels.zarr.partial").iterdir())


def test_what_is_done_is_not_done_again(field):
    ledger = field.ledger_path.read_bytes()
    assert md.combine_to_store(field)["computed"] == 0
    assert field.ledger_path.read_bytes() == ledger
    CubeStore(field.cube_path).remove_block(((0, 16), (0, 1), (0, 1)))
    assert md.combine_to_store(field)["computed"] == 1


def test_analysts_open_it_by_its_address(field, four, four_maps):
    deep = md.open_cube(str(field.cube_path), folder=field.folder)
    assert_same_bits(arrays_of(deep), four_maps)
    grid = deep.muse.grid
    cut = deep.muse.cutout(grid.position(14, 15), 2.4, wavelength=(6506.0, 6518.0))
    assert_same_bits(arrays_of(md.recombine(cut)), arrays_of(cut))
    band = (6506.0, 6508.0)
    found, wanted = (md.open_pixels(f, wavelength=band).to_pandas() for f in (field, four))
    assert len(found) > 1000 and found.equals(wanted)
    assert "folder" not in md.open_cube(field.cube_path).attrs


def test_pictures_and_the_viewer_read_it_there(field, four_maps):
    deep = md.open_cube(field.cube_path)
    assert deep.muse._repr_html_().count("<img") == 2
    viewer = md.view(deep.isel(y=slice(3, 9)))
    np.testing.assert_array_equal(
        np.frombuffer(viewer.plane("flux", 5), "<f4"), four_maps["flux"][5, 3:9].ravel()
    )
    viewer.close()


def test_workers_on_other_machines_find_it(field, four_maps):
    with md.connect("processes", memory="1GB", workers=1) as client:
        CubeStore(field.cube_path).remove_block(((0, 16), (0, 1), (0, 1)))
        (combined,) = md.run(field, client, stages=("combine",), progress=False).stages
        assert combined.facts["computed"] == 1
    assert (field.folder / "performance.html").exists()  # what it must not hold is looked for below
    assert_same_bits(stored_maps(field), four_maps)


def test_an_exposure_whose_upload_was_interrupted_does_not_count(field, four_maps, monkeypatch):
    store = PixelStore(field.pixels_path)
    name = field.exposures[1].name
    store.remove(name)
    put = ObjectPath.write_bytes

    def fail(self, data):
        if self.name == "zarr.json" and self._key.count("/") == 3:  # that of a part
            raise InputError("the network is gone")
        put(self, data)

    monkeypatch.setattr(ObjectPath, "write_bytes", fail)
    with pytest.raises(InputError, match="the network is gone"):
        md.ingest_exposures(field)
    assert (field.pixels_path / name).files() and name not in store.exposures()
    monkeypatch.undo()
    assert name in md.ingest_exposures(field)
    assert_same_bits(arrays_of(md.combine_exposures(field)), four_maps)


# Loaded by the interpreter before the command: dies, as by `kill -9`, before the n-th request that writes.
DEADLY = """
import os, signal
import musedeep.plan
musedeep.plan.SMALLEST_BLOCK = musedeep.plan.LARGEST_BLOCK = (16, 32, 32)
import obstore
from zarr.storage import ObjectStore
left = int(os.environ["DIE_AFTER"])

def count():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def deadly(function):
    def call(*args, **kwargs):
        count()
        return function(*args, **kwargs)
    return call

obstore.put = deadly(obstore.put)
ObjectStore.set = deadly(ObjectStore.set)
"""


def test_a_run_that_is_killed_again_and_again_goes_on(four, bucket, four_maps, tmp_path):
    """In the upload of an exposure, between exposures, while a cube is made, in a block, between blocks."""
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    stores = {name: f"{bucket}/killed/{name}.zarr" for name in ("pixels", "cube")}
    field = make_field(
        files_of(four),
        tmp_path / "field",
        offsets=four.settings.combine.offsets,
        pixel_store=stores["pixels"],
        cube_store=stores["cube"],
    )
    seen = []
    for die_after in (4, 15, 40, 30, 12, 25, 10**6):
        run = subprocess.run(
            [sys.executable, "-m", "musedeep", "run", str(field.folder), "--quiet"],
            env=os.environ | {"PYTHONPATH": str(tmp_path), "DIE_AFTER": str(die_after)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == (0 if die_after == 10**6 else -signal.SIGKILL), run.stderr
        stages = md.status(field)["stages"]
        seen.append((stages["ingest"]["done"], stages["combine"]["done"]))
    # nothing is lost on the way
    assert seen == sorted(seen), seen
    assert len({ingested for ingested, _ in seen}) >= 3 and len({blocks for _, blocks in seen}) >= 3, seen
    assert_same_bits(stored_maps(field), four_maps)


def test_a_damaged_block_is_found_and_computed_again(field, four_maps):
    shard = field.cube_path / "flux/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(bytes(data))
    from musedeep.combine import mend_cube

    assert len(mend_cube(field)) == 1
    assert_same_bits(stored_maps(field), four_maps)


def test_products_are_files_and_nothing_keeps_credentials(field):
    md.run(field, progress=False)
    assert list(field.products_dir.glob("*.fits"))
    assert md.status(field)["stages"]["combine"]["bytes"] > 1e5
    texts = [path.read_bytes() for path in field.folder.rglob("*") if path.is_file()]
    for place in (field.pixels_path, field.cube_path):
        texts += [(place / name).read_bytes() for name in place.files()]
    plan = md.plan_combine(field), md.plan_ingest(field)
    texts += [repr(plan).encode(), pickle.dumps(field), pickle.dumps(field.cube_path)]
    for secret in (SECRET, KEY):
        assert not any(secret.encode() in text for text in texts)
    assert b"s3://muse/udf10/cube.zarr" in (field.folder / "field.toml").read_bytes()


def test_a_refusal_does_not_tell_credentials(bucket):
    with pytest.raises(InputError, match="refused or did not answer") as caught:
        ObjectPath("s3://nosuchbucket/udf10/cube.zarr").write_bytes(b"x")
    assert SECRET not in str(caught.value) and KEY not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@pytest.mark.parametrize(
    "address",
    [
        f"s3://{KEY}:{SECRET}@muse/cube.zarr",
        "s3://muse",
        "s3://muse/../other/cube.zarr",
        "s3://muse/a?x=1",
        "/etc/passwd",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(four, address):
    with pytest.raises(UsageError) as caught:
        four.changed(cube_store=address)
    assert SECRET not in str(caught.value)


def test_paths_below_an_address(bucket):
    path = ObjectPath(f"{bucket}/a/b.zarr/")
    assert str(path / "c" / "0") == "s3://muse/a/b.zarr/c/0" and path.name == "b.zarr"
    (path / "x").write_bytes(bytes(range(100)))
    assert (path / "x").exists() and (path / "x").size() == 100 and not (path / "y").exists()
    assert (path / "x").read_range(10, 3) == bytes([10, 11, 12])
    np.testing.assert_array_equal(sorted(path.files()), ["x"])
    with pytest.raises(FileNotFoundError):
        (path / "y").read_bytes()
    path.remove_tree()
    assert not path.files()
