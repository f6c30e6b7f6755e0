"""Everything at once: a field of 16 exposures in which most have a fault of their own."""

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


def test_all_faults_at_once_yield_the_right_list(tmp_path):
    planted = list(FAULTS.values())
    paths = simulate_exposures(
        tmp_path / "sim",
        exposures=16,
        seed=2,
        field_arcsec=18.0,
        wavelength=(6285.0, 6330.0),
        stars=5,
        galaxies=0,
        star_flux=(1e4, 1e5),
        diffuse=0.0,
        fov_images=False,
        pointing_error_arcsec=0.2,
        seeing_fwhm=(0.6, 1.0),
        trails=tuple(fault for fault in planted if isinstance(fault, Trail)),
        faults=tuple(fault for fault in planted if isinstance(fault, Fault)),
    )
    options = {"offsets": str(tmp_path / "sim" / "OFFSET_LIST.fits"), "reject": "eso"}
    field = Field.from_exposures(paths, tmp_path / "field", memory="1GB", workers=1, **options)
    ingest_exposures(field)
    combine_to_store(field)
    evidence = gather(field)
    rejections = measure_rejections(field, prepare(field, grid=evidence.grid), evidence.surveys)
    found = diagnose(evidence, rejections)
    named = {f.name: [evidence.dates.index(date) for date in f.exposures] for f in found.alarms}
    assert named == {name: [fault.exposure] for names, fault in FAULTS.items() for name in names}
