#!/bin/sh
# What a careful administrator writes instead of nodecert: a key, a request, a login with AppRole, a
# signature, the token given back, the answer checked, and the files put in place with their modes, on disk.
# No secret stands in an argument. One connection for signing and giving back, as few processes as it takes.
#
#   issue.sh URL TLS-CA MOUNT ROLE ROLE-ID SECRET-ID-FILE ANCHORS DIRECTORY
set -eu
url=$1 tls=$2 mount=$3 role=$4 role_id=$5 secret=$6 anchors=$7 directory=$8
umask 077
mkdir -p "$directory"
work=$(mktemp -d "$directory/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout web.key -out csr.pem \
    -subj /O=ops/CN=node01.example.com -addext extendedKeyUsage=serverAuth,clientAuth \
    -addext subjectAltName=DNS:node01,DNS:node01.example.com,IP:10.99.0.11 2>/dev/null
sync web.key csr.pem .
jq -n --arg role_id "$role_id" --rawfile secret "$secret" '{$role_id, secret_id: $secret | rtrimstr("\n")}' |
    curl --silent --show-error --fail --cacert "$tls" --data @- --output login.json "$url/v1/auth/approle/login"
jq -er '"X-Vault-Token: " + .auth.client_token' login.json >token
jq -n --rawfile csr csr.pem '{$csr, common_name: "node01.example.com", ttl: "24h"}' |
    curl --silent --show-error --fail --cacert "$tls" --header @token --data @- --output signed.json \
        "$url/v1/$mount/sign/$role" \
        --next --silent --show-error --cacert "$tls" --header @token --request POST --output /dev/null \
        "$url/v1/auth/token/revoke-self"
jq -er .data.certificate signed.json >leaf.pem
jq -er '.data | .ca_chain[0] // .issuing_ca' signed.json >issuing.pem
openssl verify -CAfile "$anchors" -untrusted issuing.pem leaf.pem >/dev/null
[ "$(openssl x509 -in leaf.pem -noout -pubkey)" = "$(openssl pkey -in web.key -pubout)" ]
cat leaf.pem issuing.pem >web.crt
cp "$anchors" ca.crt
chmod 0644 web.crt ca.crt
chmod 0640 web.key
sync web.key web.crt ca.crt .
mv web.key web.crt ca.crt ..
sync ..
