"""A certificate for one cluster: made anew, readable by this user alone, gone when the cluster is."""

import stat

__all__ = ["make_security"]


def make_security(folder):
    """Make a key and a certificate that workers find in files.

    Parameters
    ----------
    folder : path
        Of this user alone, on a file system that all workers see.

    Returns
    -------
    distributed.Security
        Asks for encryption and for this certificate on every connection; names ``cert.pem`` and ``key.pem``
        of the folder.
    """
    from distributed import Security

    made = Security.temporary()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    for path, text in ((certificate, made.tls_ca_file), (key, made.tls_client_key)):
        path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        path.write_text(text)
    roles = {
        f"tls_{role}_{kind}": str(path)
        for role in ("client", "scheduler", "worker")
        for kind, path in (("cert", certificate), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=str(certificate), **roles)
