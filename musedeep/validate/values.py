"""What the data units hold: checksums, and values where the standard says something about them."""

import numpy as np

__all__ = ["check_checksums", "check_values"]

_PIECE = 2880 * 4096  # bytes; whole FITS blocks
_ALL_ONES = 0xFFFFFFFF


def check_checksums(check, hdus):
    """Note HDUs without CHECKSUM or DATASUM, and those whose bytes do not fit to them."""
    for number, hdu in enumerate(hdus):
        name = "primary" if number == 0 else str(hdu.header.get("EXTNAME", number)).strip()
        missing = [key for key in ("CHECKSUM", "DATASUM") if key not in hdu.header]
        for key in missing:
            check.error(name, key, "is missing and mandatory")
        if missing:
            continue
        place = hdu.fileinfo()
        header = _sum(check.path, place["hdrLoc"], place["datLoc"])
        data = _sum(check.path, place["datLoc"], place["datLoc"] + place["datSpan"])
        if str(data) != str(hdu.header["DATASUM"]).strip():
            check.error(name, "DATASUM", f"is {hdu.header['DATASUM']}, but the data sum up to {data}")
        elif _folded(header + data) not in (0, _ALL_ONES):
            check.error(name, "CHECKSUM", "does not fit to the header; it was changed without its checksum")


def _sum(path, start, stop):
    """Ones' complement sum of the 32-bit words of a part of a file."""
    total = 0
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            piece = file.read(min(_PIECE, stop - start))
            if not piece:
                break
            start += len(piece)
            total = _folded(total + int(np.frombuffer(piece, ">u4").sum(dtype=np.uint64)))
    return total


def _folded(total):
    while total >> 32:
        total = (total & _ALL_ONES) + (total >> 32)
    return total


def check_values(check, hdus, kind):
    """Note values that a product of its kind must not have."""
    named = {str(hdu.header.get("EXTNAME", "")).strip(): hdu for hdu in hdus[1:] if hdu.is_image}
    data = named.get("DATA")
    if data is None or not data.header.get("NAXIS", 0):
        return
    if kind == "expmap":
        _check_exposure_map(check, data)
    variance = named.get("STAT")
    if variance is not None and variance.shape == data.shape:
        _check_variance(check, data, variance)


def _check_exposure_map(check, hdu):
    if "BLANK" in hdu.header:
        check.error("DATA", "BLANK", "is not allowed in an exposure map")
    values = np.asarray(hdu.data, np.float64)
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        check.error(
            "DATA", "", f"{count} pixels of the exposure map are NaN; where nothing was seen it must be 0"
        )
    if (values < 0).any():
        check.error("DATA", "", "the exposure map has values below 0")
    if not (values > 0).any():
        check.error("DATA", "", "the exposure map is empty")


def _check_variance(check, data, variance):
    """Bad voxels are NaN in data and variance alike; variances are not negative."""
    unlike = negative = 0
    planes = 1 if data.data.ndim == 2 else data.data.shape[0]
    for plane in range(planes):
        flux, noise = (
            h.data if planes == 1 and h.data.ndim == 2 else h.data[plane] for h in (data, variance)
        )
        unlike += int(np.count_nonzero(np.isnan(flux) != np.isnan(noise)))
        negative += int(np.count_nonzero(noise < 0))
    if unlike:
        check.error("STAT", "", f"{unlike} values are NaN in one of DATA and STAT only")
    if negative:
        check.error("STAT", "", f"{negative} variances are negative")
