import pytest
from cubes import StandInExposure, exposure_header

from musedeep.errors import UsageError
from musedeep.names import log_name, observation_name, origfile, plot_name, product_name

TIME = "2014-08-10T01:02:03.456"


def exposure(**cards):
    header = exposure_header(0)
    for key, value in cards.items():
        key = key.replace("_", " ") if key.startswith("ESO") else key
        if value is None:
            del header[key]
        else:
            header[f"HIERARCH {key}" if " " in key else key] = value
    return StandInExposure(header, 1)


@pytest.mark.parametrize(
    "product, name",
    [
        ("DATACUBE_DEEP", f"MU_SCBD_200100_{TIME}_WFM-NOAO-N_OBJ.fits"),
        ("IMAGE_FOV_DEEP", f"MU_SIMD_200100_{TIME}_WFM-NOAO-N_OBJ.fits"),
        ("IMAGE_FOV_DEEP_V", f"MU_SIMD_200100_{TIME}_WFM-NOAO-N_OBJ_V.fits"),
        ("EXPOSURE_MAP", f"MU_SXPM_200100_{TIME}_WFM-NOAO-N_OBJ.fits"),
        ("DEPTH_MAP", "DEPTH_MAP.fits"),
    ],
)
def test_names_of_the_archive(product, name):
    assert origfile(product, exposure()) == product_name(product, exposure(), "origfile") == name
    assert product_name(product, exposure()) == f"{product}.fits"


def test_a_header_without_block_and_mode_has_a_name_too():
    poor = exposure(ESO_OBS_ID=None, ESO_INS_MODE=None, ARCFILE=None)
    assert origfile("DATACUBE_DEEP", poor) == f"MU_SCBD_0_{TIME}_WFM_OBJ.fits"


@pytest.mark.parametrize(
    "cards, name",
    [
        ({"ARCFILE": "MUSE.2014-08-11T03:04:05.678.fits"}, "MUSE.2014-08-11T03:04:05.678"),
        ({"ARCFILE": "MUSE.2014-08-11T03_04_05.678.fits.fz"}, "MUSE.2014-08-11T03:04:05.678"),
        ({"ARCFILE": "raw.fits"}, f"MUSE.{TIME}"),
        ({"ESO_PRO_ANCESTOR": "MUSE.2014-08-12T03:04:05.678.fits"}, "MUSE.2014-08-12T03:04:05.678"),
    ],
)
def test_the_time_is_that_of_the_raw_file(cards, name):
    assert observation_name(exposure(**cards)) == name


def test_names_of_log_and_plots():
    assert log_name(exposure()) == f"r.MUSE.{TIME}_dpc.log"
    assert plot_name(exposure(), "dpc") == f"r.MUSE.{TIME}_dpc.png"
    assert plot_name(exposure()) == f"r.MUSE.{TIME}_pst.png"


def test_a_name_that_the_archive_does_not_take_is_refused():
    with pytest.raises(UsageError, match=r"_OBJ_ACS_F814W_wide\.fits has 73 letters, .* takes 68"):
        product_name("IMAGE_FOV_DEEP_ACS_F814W_wide", exposure(), "origfile")
    assert product_name("IMAGE_FOV_DEEP_ACS_F814W_wide", exposure()) == "IMAGE_FOV_DEEP_ACS_F814W_wide.fits"
