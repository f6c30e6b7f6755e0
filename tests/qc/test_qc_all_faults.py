"""Everything at once: fields in which most exposures have a fault of their own, and all of them some more."""

from musedeep.combine import combine_to_store
from musedeep.field import Field
from musedeep.ingest import ingest_exposures
from musedeep.qc.assess import gather
from musedeep.qc.diagnose import diagnose
from musedeep.qc.rejections import measure_rejections
from musedeep.recipe import prepare
from musedeep.simulate import Fault, Trail, simulate_exposures

FAULTS = {
    ("misalignment", "crater"): Fault("shift", 0.8, 1),
    ("flux_scale",): Fault("flux", 1.5, 2),
    ("trail",): Trail(3, 35.0, 1.5, 60.0),
    ("saturation",): Fault("saturation", 500.0, 4),
    ("background_level",): Fault("background", 8.0, 5),
    ("background_quadrant",): Fault("quadrant", 8.0, 6),
    ("background_ifu",): Fault("ifu", 8.0, 7),
    ("variance",): Fault("variance", 0.4, 8),
    ("slice_edge",): Fault("edge", 10.0, 9),
    ("sky_level",): Fault("sky", 0.03, 10),
    ("wavelength_shift",): Fault("wavelength", 0.4, 11),
}
COMMON = {
    "galaxies": 0,
    "diffuse": 0.0,
    "fov_images": False,
    "pointing_error_arcsec": 0.2,
}


def named(folder, reject, **settings):
    """Alarms of a simulated field, and the numbers of the exposures that each of them names."""
    paths = simulate_exposures(folder / "sim", **COMMON, **settings)
    options = {"offsets": str(folder / "sim" / "OFFSET_LIST.fits"), "reject": reject}
    field = Field.from_exposures(paths, folder / "field", memory="1GB", workers=1, **options)
    ingest_exposures(field)
    combine_to_store(field)
    evidence = gather(field)
    rejections = None
    if reject == "eso":
        rejections = measure_rejections(field, prepare(field, grid=evidence.grid), evidence.surveys)
    found = diagnose(evidence, rejections)
    return {f.name: [evidence.dates.index(date) for date in f.exposures] for f in found.alarms}


def test_all_faults_at_once_yield_the_right_list(tmp_path):
    planted = list(FAULTS.values())
    found = named(
        tmp_path,
        "eso",
        exposures=16,
        seed=2,
        field_arcsec=18.0,
        wavelength=(6285.0, 6330.0),
        stars=5,
        star_flux=(1e4, 1e5),
        seeing_fwhm=(0.6, 1.0),
        trails=tuple(fault for fault in planted if isinstance(fault, Trail)),
        faults=tuple(fault for fault in planted if isinstance(fault, Fault)),
    )
    assert found == {name: [fault.exposure] for names, fault in FAULTS.items() for name in names}


def test_all_faults_of_the_blue_end_at_once_yield_the_right_list(tmp_path):
    odd = (1, 3)
    found = named(
        tmp_path,
        "guarded",
        exposures=4,
        mode=("WFM-NOAO-E", "WFM-AO-E"),
        seed=3,
        field_arcsec=12.0,
        wavelength=(5240.0, 5790.0),
        stars=4,
        star_flux=(2e4, 5e4),
        seeing_fwhm=0.7,
        faults=(
            Fault("background", -60.0),
            Fault("lsf", 0.15),
            Fault("wiggle", 0.03),
            *(Fault("flux", 0.15, n) for n in odd),
            *(Fault("shift", 0.7, n) for n in odd),
        ),
    )
    # half of the exposures lie off the other half; sky that slices left may be more than they miss
    off, _ = found.pop("misalignment"), found.pop("sky_level", None)
    assert set(odd) <= set(off)
    expected = {"blur": [], "over_subtraction": [], "sky_residual": []}
    assert found == expected | {"wiggles": [1, 3], "sodium_step": [1, 3]}


def test_all_faults_of_telluric_bands_at_once_yield_the_right_list(tmp_path):
    found = named(
        tmp_path,
        "guarded",
        exposures=6,
        seed=4,
        field_arcsec=8.0,
        wavelength=(7530.0, 7780.0),
        stars=4,
        star_flux=(2e4, 1e5),
        seeing_fwhm=(0.6, 1.0),
        faults=(
            Fault("telluric", 0.12),
            Fault("telluric", 0.12, 2),
            Fault("colour", 0.5, 4, from_angstrom=7730.0),
            Fault("flux", 1.5, 5),
        ),
    )
    assert found == {"telluric": [], "telluric_exposure": [2], "flux_colour": [4], "flux_scale": [5]}
