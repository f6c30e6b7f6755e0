"""Instrument facts: packing of origins, modes, scales."""

import itertools

import numpy as np
import pytest

from musedeep import muse


def test_origin_packs_and_unpacks_every_combination():
    xs, ys, ifus, numbers = (1, 2077, 4224, 8191), (1, 2199, 4240, 8191), (1, 13, 24), (1, 27, 48)
    cases = np.array(list(itertools.product(xs, ys, ifus, numbers, (0, 10, 50, 100, 500, 8191))))
    x, y, ifu, number, offset = cases.T
    origin = muse.pack_origin(x, y, ifu, number, offset)
    assert origin.dtype == np.uint32
    assert (origin != 0).all()
    assert (muse.origin_y(origin) == y).all()
    assert (muse.origin_ifu(origin) == ifu).all()
    assert (muse.origin_slice(origin) == number).all()


def test_origin_gives_detector_columns_back_with_the_offset():
    x = np.arange(400, 400 + 90)
    origin = muse.pack_origin(x, 17, 24, 48, 380)
    assert (muse.origin_x(origin, 380) == x).all()


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((0, 1, 1, 1, 0), "x"), ((8192, 1, 1, 1, 0), "x"), ((1, 0, 1, 1, 0), "y"), ((1, 8192, 1, 1, 0), "y"),
        ((1, 1, 0, 1, 0), "ifu"), ((1, 1, 25, 1, 0), "ifu"), ((1, 1, 1, 0, 0), "slice"),
        ((1, 1, 1, 49, 0), "slice"), ((1, 1, 1, 1, -1), "offset"), ((1, 1, 1, 1, 8192), "offset"),
    ],
)  # fmt: skip
def test_origin_refuses_numbers_out_of_range(place, name):
    with pytest.raises(ValueError, match=f"{name} must lie in"):
        muse.pack_origin(*place)


def test_origin_of_one_bad_row_among_good_ones_is_refused():
    with pytest.raises(ValueError, match="y must lie"):
        muse.pack_origin(np.array([5, 6]), np.array([1, 0]), 1, 1, 0)


def test_dq_bits_are_single_and_distinct():
    values = list(muse.DQ_BITS.values())
    assert len(set(values)) == len(values)
    assert all(value.bit_count() == 1 for value in values)
    assert muse.DQ_BITS["cosmic_ray"] == 1 << 5
    assert muse.DQ_BITS["dead_pixel"] == 1 << 13
    assert muse.DQ_BITS["nad_gap"] == 1 << 27


def test_slices_are_on_the_sky_once_each():
    assert sorted(muse.SLICE_SKY_NUMBERS) == list(range(1, 49))


def test_modes():
    assert muse.mode_facts("WFM-AO-N").gap == (5805.0, 5966.0)
    assert muse.mode_facts("WFM-NOAO-N").gap is None
    assert muse.mode_facts("WFM-NOAO-E").wavelength_range == (4600.0, 9350.0)
    assert muse.sampling_arcsec("NFM-AO-N") == (0.02519, 0.02542)
    assert muse.sampling_arcsec("WFM-AO-E") == (0.2, 0.2)
    with pytest.raises(ValueError, match="unknown instrument mode 'WFM'.*WFM-NOAO-N"):
        muse.mode_facts("WFM")


def test_scales_of_a_plain_matrix_keep_their_sign():
    assert muse.scales_from_cd([[-5.5e-5, 0], [0, 5.6e-5]]) == (5.5e-5, 5.6e-5)
    assert muse.scales_from_cd([[5.5e-5, 0], [0, 5.6e-5]]) == (5.5e-5, 5.6e-5)
    assert muse.scales_from_cd([[-5.5e-5, 0], [0, -5.6e-5]]) == (-5.5e-5, -5.6e-5)


def test_scales_of_a_turned_matrix_are_lengths():
    angle, scale = np.radians(25), 0.25 / 3600
    cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert muse.scales_from_cd(cd) == pytest.approx((scale, scale), rel=1e-14)


def test_scales_of_a_real_calibration():
    calibration = [[-5.51812632497e-5, -5.57886124193e-7], [2.67511546844e-7, 5.52566392427e-5]]
    xscale, yscale = muse.scales_from_cd(calibration)
    assert xscale == pytest.approx(np.hypot(5.51812632497e-5, 5.57886124193e-7), rel=1e-15)
    assert yscale == pytest.approx(np.hypot(5.52566392427e-5, 2.67511546844e-7), rel=1e-15)


def test_keyword_of_an_x_offset():
    assert muse.xoffset_keyword(3, 41) == "ESO DRS MUSE PIXTABLE EXP0 IFU03 SLICE41 XOFFSET"
    assert muse.xoffset_keyword(12, 1, exposure=15) == "ESO DRS MUSE PIXTABLE EXP15 IFU12 SLICE01 XOFFSET"
