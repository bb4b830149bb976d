"""Django's own storage tests, with SFTPStorage over a real sshd in FileSystemStorage's place."""
