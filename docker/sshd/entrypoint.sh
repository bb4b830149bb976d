#!/bin/sh
# Sets the password and the key that may log in, makes host keys once, and becomes sshd.
set -eu
echo "netstorage:${NETSTORAGE_PASSWORD:?}" | chpasswd
mkdir -p /etc/ssh/authorized_keys
printf '%s\n' "${NETSTORAGE_AUTHORIZED_KEY:-}" > /etc/ssh/authorized_keys/netstorage
chown netstorage: /srv/sftp/small
ssh-keygen -A
echo "The option host_key for this server: $(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)"
exec /usr/sbin/sshd -D -e
