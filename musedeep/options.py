"""The options of ``musedeep simulate``: kinds and meanings of the settings that it offers."""

from musedeep.kinds import Number, Numbers, Switch, Text

__all__ = ["RAW_SIMULATION", "SIMULATION"]

SIMULATION = {
    "exposures": (Number(low=1, integer=True), "number of exposures"),
    "seed": (Number(low=0, integer=True), "seed of everything random"),
    "field_arcsec": (Number(above=0), "side of the patch cut out of the field of view; 60 keeps all"),
    "wavelength": (Numbers(2, 2, above=0), "wavelength range in Angstrom: low,high"),
    "mode": (Text("a mode"), "instrument mode, such as WFM-NOAO-N or WFM-AO-N"),
    "position_angles": (Numbers(1, 99), "position angles in degrees, one after the other"),
    "dither_arcsec": (Number(low=0), "largest dither in each direction"),
    "pointing_error_arcsec": (Number(low=0), "scatter of the pointing around that of the header"),
    "rotation_error_deg": (Number(low=0), "scatter of the angle around that of the header"),
    "seeing_fwhm": (Numbers(1, 999, above=0), "seeing in arcsec: one value, low,high, or one an exposure"),
    "exptime": (Numbers(1, 999, above=0), "exposure times in seconds"),
    "flux_scale_error": (Numbers(1, 999), "relative errors of the flux scale"),
    "stars": (Number(low=0, integer=True), "number of stars"),
    "galaxies": (Number(low=0, integer=True), "number of galaxies"),
    "scene": (Text("a file"), "a MUSE cube to look at instead of stars and galaxies"),
    "cosmic_ray_rate": (Number(low=0, high=1), "share of rows that are hit by cosmic rays"),
    "cosmic_ray_flagged": (Number(low=0, high=1), "share of cosmic rays that carry their flag"),
    "trails": (Number(low=0, integer=True), "number of satellite trails"),
    "layout": (Text("a layout"), "'image' (one extension a column) or 'table'"),
    "split_ifus": (Switch(), "one file for each IFU"),
    "shuffle_rows": (Switch(), "rows in random order"),
}

RAW_SIMULATION = {
    "sky_exposures": (Number(low=0, integer=True), "number of SKY frames beside the exposures  [1]"),
    "ifus": (Numbers(1, 24, low=1, most=24, integer=True), "IFUs that the frames hold  [12,13]"),
    "binning": (Numbers(2, 2, low=1, integer=True), "detector pixels read as one: x,y  [4,2]"),
    "slice_columns": (Number(low=4, high=76), "detector columns of a slice  [12]"),
    "blue": (Number(above=0), "wavelength of the first line, Angstrom  [5200]"),
    "wavelength_error": (Number(), "Angstrom by which wavelengths are off"),
    "all_calibrations": (
        Switch(),
        "uneven light, dark current and bad pixels, with the calibrations that tell of them",
    ),
}
"""Those that only raw frames have."""
