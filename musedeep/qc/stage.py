"""Quality as a stage of a run: whether it is done, and doing it."""

from musedeep.field import folder_bytes

__all__ = ["quality_state", "run_quality"]


def run_quality(field, client=None, progress=None):
    """Assess a field unless its settings say no, or nothing changed since the last time.

    Parameters
    ----------
    field : Field
        With a finished cube store.
    client : distributed.Client, optional
    progress : Progress, optional

    Returns
    -------
    dict
        state ('off', 'kept' or 'assessed'); once assessed QCFLAG, verdict and files.
    """
    off = field.settings.qc.assess == "off"
    if not off:
        from musedeep.qc.assess import assess_field, is_assessed
    if off or is_assessed(field):
        if progress is not None:
            progress.close()
        return {"state": "off" if off else "kept"}
    found = assess_field(field, client=client, progress=progress)
    facts = {"state": "assessed", "QCFLAG": found.flag, "verdict": found.verdict}
    return facts | {"files": [str(field.qc_dir / "report.html")]}


def quality_state(field):
    """How far the assessment of a field is: unit, done, total and bytes, as `pipeline.status` has them."""
    return {
        "unit": "reports",
        "done": int((field.qc_dir / "report.html").exists()),
        "total": int(field.settings.qc.assess != "off"),
        "bytes": folder_bytes(field.qc_dir),
    }
