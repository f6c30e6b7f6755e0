"""Who may have a product that is made of exposures of several runs."""

from datetime import date

__all__ = ["product_access"]


def product_access(public_from, runs, today):
    """Who may have a product: all if all of its inputs are public, else the PI of their run, or nobody.

    Parameters
    ----------
    public_from : iterable of datetime.date
        The day from which each exposure is public.
    runs : iterable of str
        Observing runs of the exposures; empty where unknown.
    today : datetime.date

    Returns
    -------
    access : str
        'public', 'PI of <run>' or 'nobody'.
    since : datetime.date
        From when the product is public; the end of time without exposures.
    """
    since = max(public_from, default=date.max)
    if since <= today:
        return "public", since
    runs = sorted(set(runs))
    return (f"PI of {runs[0] or 'an unknown run'}" if len(runs) == 1 else "nobody"), since
