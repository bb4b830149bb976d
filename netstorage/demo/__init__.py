"""See netstorage at work: ``python -m netstorage.demo``.

Starts an SFTP and a WebDAV server in a temporary folder, and a small Django site that keeps its
uploads on them. ``--once`` goes through the site by itself, as a browser would, and tells what
happened.
"""
