#!/bin/sh
# What a careful administrator's cron job asks before it does nothing: is the certificate good for longer
# than that, and is the key its own. It looks at neither chain nor names.
#
#   check.sh DIRECTORY SECONDS
set -eu
openssl x509 -in "$1/web.crt" -noout -checkend "$2" >/dev/null
[ "$(openssl x509 -in "$1/web.crt" -noout -pubkey)" = "$(openssl pkey -in "$1/web.key" -pubout)" ]
