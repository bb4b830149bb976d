"""``manage.py netstorage``: what operators type, on real servers."""
