"""What operators type: the subcommands of ``manage.py netstorage``.

Each is a module with a function ``add_arguments(parser)`` and a function ``run(options, terminal)``
that returns the exit status. They speak to storages through Django's Storage API (``place.py``), so
that every alias of STORAGES will do, and know more of ours.
"""
