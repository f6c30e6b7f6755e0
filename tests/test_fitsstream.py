import errno
import os

import numpy as np
import pytest
from astropy.io import fits
from cubes import fitsverify, names_in

from musedeep.errors import WorkError
from musedeep.fitsstream import FitsStream, require_space, update_primary


def make_stream(path, shape=(7, 5, 3)):
    header = fits.Header()
    header["EXTNAME"] = "DATA"
    return FitsStream(
        path, fits.Header([("OBJECT", "x")]), [(header, "f4", shape), (header.copy(), "i4", shape)]
    )


def fill(stream, rng):
    values = rng.normal(size=(7, 5, 3)).astype("f4")
    values[2, 1] = np.nan
    counts = rng.integers(-5, 5, values.shape)
    for start, stop in ((3, 7), (0, 1), (1, 3)):
        stream.write(1, start, values[start:stop])
        stream.write(2, start, counts[start:stop])
    return values, counts


def test_pieces_in_any_order_make_one_file_with_right_checksums(tmp_path):
    with make_stream(tmp_path / "a.fits") as stream:
        values, counts = fill(stream, np.random.default_rng(1))
        stream.headers[0]["OBJECT"] = "later"
        stream.finish()
        assert not stream.path.exists()
        stream.publish()
    with fits.open(stream.path, checksum=True) as hdus:
        assert hdus[0].header["OBJECT"] == "later"
        np.testing.assert_array_equal(hdus[1].data, values)
        np.testing.assert_array_equal(hdus[2].data, counts)
        assert hdus[2].data.dtype == np.dtype(">i4")
        assert all(hdu.header["CHECKSUM"] != "0" * 16 for hdu in hdus)
    assert names_in(tmp_path) == ["a.fits"]
    assert stream.path.stat().st_size == stream.size


@pytest.mark.parametrize("seed", range(40))
def test_checksum_matches_the_one_of_astropy(tmp_path, seed):
    with make_stream(tmp_path / "a.fits") as stream:
        values, _ = fill(stream, np.random.default_rng(seed))
        stream.finish()
        stream.publish()
    with fits.open(stream.path) as hdus:
        for hdu in hdus:
            assert hdu.verify_checksum() == 1
            assert hdu.verify_datasum() == 1
        expected = fits.ImageHDU(values)
        expected.add_datasum()
        assert hdus[1].header["DATASUM"] == expected.header["DATASUM"]


def test_a_changed_byte_breaks_the_checksum(tmp_path):
    with make_stream(tmp_path / "a.fits") as stream:
        fill(stream, np.random.default_rng(2))
        stream.finish()
        stream.publish()
    content = bytearray(stream.path.read_bytes())
    content[3 * 2880 - 200] ^= 1
    stream.path.write_bytes(content)
    assert "verification OK" not in fitsverify(stream.path)


def test_an_unfinished_file_is_removed(tmp_path):
    (tmp_path / "a.fits").write_text("old")
    with pytest.raises(RuntimeError), make_stream(tmp_path / "a.fits") as stream:
        fill(stream, np.random.default_rng(2))
        raise RuntimeError
    assert names_in(tmp_path) == ["a.fits"]
    assert (tmp_path / "a.fits").read_text() == "old"


def test_full_disk_while_writing(tmp_path, monkeypatch):
    real = os.pwrite

    def pwrite(descriptor, view, offset):
        if offset > 2 * 2880:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, view[:100], offset)  # short writes are legal

    monkeypatch.setattr(os, "pwrite", pwrite)
    message = rf"a\.fits \({5 * 2880} bytes needed\): No space left on device; .* free some space"
    with pytest.raises(WorkError, match=message), make_stream(tmp_path / "a.fits") as stream:
        fill(stream, np.random.default_rng(2))
        stream.finish()
    assert names_in(tmp_path) == []


def test_full_disk_at_the_last_moment(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", fsync)
    with make_stream(tmp_path / "a.fits") as stream:
        fill(stream, np.random.default_rng(2))
        with pytest.raises(WorkError, match="quota exceeded.*free some space"):
            stream.finish()
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(WorkError, match="No such file.*check that the folder exists"):
        make_stream(tmp_path / "nowhere" / "a.fits")


def test_space_is_asked_for_beforehand(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(WorkError, match=r"10{18} bytes needed, \d+ bytes free"):
        require_space(tmp_path, 10**18)


def test_planes_that_do_not_fit_are_refused(tmp_path):
    with make_stream(tmp_path / "a.fits") as stream, pytest.raises(ValueError, match="do not fit"):
        stream.write(1, 5, np.zeros((3, 5, 3), "f4"))


def with_room(path, spare=100):
    header = fits.Header()
    header["EXTNAME"] = "DATA"
    with FitsStream(
        path, fits.Header([("OBJECT", "x"), ("A", 1)]), [(header, "f4", (2, 3))], spare
    ) as stream:
        stream.write(1, 0, np.arange(6.0).reshape(2, 3))
        del stream.headers[0]["A"]  # a keyword less is allowed
        stream.finish()
        stream.publish()
    return stream


def test_spare_cards_are_there_for_later_keywords(tmp_path):
    stream = with_room(tmp_path / "a.fits")
    assert stream.path.stat().st_size == stream.size == 4 * 2880 + 2 * 2880

    def add(header):
        header["OBJECT"] = "other"
        for number in range(90):
            header[f"NEW{number}"] = number

    update_primary(stream.path, add)
    assert stream.path.stat().st_size == stream.size
    with fits.open(stream.path, checksum=True) as hdus:
        assert (hdus[0].header["NEW89"], hdus[0].header["OBJECT"]) == (89, "other")
        assert "A" not in hdus[0].header
        np.testing.assert_array_equal(hdus[1].data, [[0, 1, 2], [3, 4, 5]])
    assert fitsverify(stream.path).strip() == f"verification OK: {stream.path}"


def test_more_keywords_than_there_is_room_for_change_nothing(tmp_path):
    path = with_room(tmp_path / "a.fits", spare=0).path
    before = path.read_bytes()
    with pytest.raises(WorkError, match=r"a\.fits needs \d+ bytes and has 2880; nothing was changed"):
        update_primary(path, lambda header: header.update({f"NEW{n}": n for n in range(60)}))
    assert path.read_bytes() == before


def test_a_header_of_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WorkError, match=r"cannot change the header of .*gone\.fits: No such file"):
        update_primary(tmp_path / "gone.fits", lambda header: None)
