"""What operators type: the subcommands of ``manage.py netstorage``.

Each is a function ``NAME(options, terminal)`` that returns the exit status, beside a function
``NAME_arguments(parser)``. They speak to storages through Django's Storage API (``place.py``), so
that every alias of STORAGES will do, and know more of ours.
"""
