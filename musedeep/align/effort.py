"""What the alignment takes: threads, memory and bytes."""

from musedeep.plan import BASE_BYTES, Plan, threads_of

__all__ = ["images_at_once", "plan_align"]

# What a thread needs for one exposure: the bins of a full field and wavelength range, and rows as read.
EXPOSURE_BYTES = 250_000_000
# Image and samples of an exposure, which all stay in the process that compares them, with its sources.
IMAGE_BYTES = 7_000_000
READ_BYTES_PER_ROW = 24


def plan_align(field, client=None):
    """Predict the alignment of a field.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional

    Returns
    -------
    Plan
    """
    run = field.settings.run
    rows = sum(exposure.row_count for exposure in field.exposures)
    images = len(field.sources) * IMAGE_BYTES
    each = BASE_BYTES + images_at_once(run, len(field.sources), client) * EXPOSURE_BYTES
    # Threads share their process with the images; a cluster's workers send them to the one that waits.
    return Plan(
        stage="align",
        tasks=len(field.sources),
        rows=rows,
        voxels=0,
        bytes_read=READ_BYTES_PER_ROW * rows,
        bytes_written=0,
        files=3,
        peak_bytes=each + (images if client is None and run.cluster == "threads" else 0),
        memory_bytes=run.memory_bytes,
    )


def images_at_once(run, count, client=None):
    """Images that a process may make at once: fewer than it has threads where memory is short."""
    threads = threads_of(run, client)
    if client is not None or run.cluster != "threads":
        return threads
    room = (run.memory_bytes - BASE_BYTES - count * IMAGE_BYTES) // EXPOSURE_BYTES
    return int(min(max(room, 1), threads))
