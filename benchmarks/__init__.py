"""netstorage beside its peers, measured on one machine in one run; see README.md."""
