from astropy.table import Table

from musedeep.align import align_exposures, draw_alignment
from musedeep.field import open_field
from musedeep.offsets import OffsetTable
from musedeep.pipeline import align
from musedeep.simulate import simulate_exposures


def test_a_drawing_is_made_even_of_an_image_without_data(sky, tmp_path):
    field = sky(stars=20)
    field.add().add((0.5, 0.2)).add().images[2].flux[:] = float("nan")
    path = draw_alignment(align_exposures(field.write(tmp_path)), tmp_path / "alignment.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 20000


def test_a_field_is_aligned_from_its_pixel_tables(tmp_path):
    from musedeep.field import Field

    paths = simulate_exposures(
        tmp_path / "data", exposures=3, field_arcsec=12.0, wavelength=(6500.0, 6520.0), stars=6, galaxies=0,
        pointing_error_arcsec=0.5, star_flux=(3e4, 2e5), seed=2,
    )  # fmt: skip
    field = Field.from_exposures(paths, tmp_path / "field")
    found, files = align(field.folder, progress=False)
    assert {file.name for file in files} >= {"offsets.fits", "offsets.ecsv", "offsets.png"}
    truth = OffsetTable.read(tmp_path / "data" / "OFFSET_LIST.fits")
    measured, true = (
        [table.lookup(date) for date in field.exposures.dates]
        for table in (open_field(field.folder).read_offsets(), truth)
    )
    for axis in ("ra_deg", "dec_deg"):
        first = getattr(measured[0], axis) - getattr(true[0], axis)
        for a, b in zip(measured, true, strict=True):
            assert abs(getattr(a, axis) - getattr(b, axis) - first) * 3600 < 0.02
    listed = align(field, tmp_path / "list.ecsv", progress=False, images=str(tmp_path / "data"))
    assert Table.read(listed[1][0], format="ascii.ecsv")["N_MATCHED"].min() >= 3
