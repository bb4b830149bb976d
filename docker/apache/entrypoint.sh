#!/bin/sh
# Sets the password and becomes Apache.
set -e
printf '%s' "${NETSTORAGE_PASSWORD:?}" | htpasswd -ic /etc/apache2/passwords netstorage
chown www-data: /srv/www/dav/small
. /etc/apache2/envvars
install -d -o www-data "$APACHE_RUN_DIR" "$APACHE_LOCK_DIR"
rm -f "$APACHE_PID_FILE"
exec apache2 -DFOREGROUND
