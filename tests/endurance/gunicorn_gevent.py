"""For gunicorn's gevent workers with ``--preload``: what it patches itself comes too late."""

from gevent import monkey

monkey.patch_all()
