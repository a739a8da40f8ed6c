#!/bin/sh
# Creates a certificate authority and certificates for a cluster: etcd, the services, PostgreSQL, the load balancer. For
# tests, and as a starting point. Existing files are kept, so delete a certificate and run this again to renew it.
#
#   deploy/make-certificates.sh DIR [DAYS]
#
# Certificates are valid for DAYS (365 by default), the authority's for ten times as many.
#
# DIR/ca.pem is the authority's certificate, which all processes trust. DIR/ca.key signs: keep it off the hosts.
# DIR/<owner>/{cert,key}.pem are a certificate and its key; DIR/balancer/both.pem is that pair in one file, as haproxy
# reads it. Hosts in addition to those of docker-compose.yml: ETCD_HOSTS, SERVICE_HOSTS, POSTGRES_HOSTS, BALANCER_HOSTS
# (separated by spaces). Needs openssl 1.1.1 or later.
set -eu
umask 077

dir=${1:?the directory to write to}
days=${2:-365}
mkdir -p "$dir"

if [ ! -s "$dir/ca.key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$((days * 10))" \
        -subj "/CN=Pollcast" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
    chmod 644 "$dir/ca.pem"
fi

# issue OWNER HOST…: create a certificate for all of these hosts, valid for servers and for clients
issue() {
    owner=$1
    shift
    if [ -s "$dir/$owner/cert.pem" ]; then return; fi
    names=
    for host in "$@" localhost; do names="${names}DNS:$host,"; done
    mkdir -p "$dir/$owner"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=pollcast $owner" \
        -keyout "$dir/$owner/key.pem" -out "$dir/$owner/request.pem" 2>/dev/null
    cat >"$dir/$owner/extensions" <<END
basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName=${names}IP:127.0.0.1,IP:::1
END
    openssl x509 -req -in "$dir/$owner/request.pem" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial \
        -days "$days" -extfile "$dir/$owner/extensions" -out "$dir/$owner/cert.pem" 2>/dev/null
    rm "$dir/$owner/request.pem" "$dir/$owner/extensions"
    echo "made $dir/$owner/cert.pem for $*"
}

# shellcheck disable=SC2086 # lists of hosts
{
    issue etcd etcd-1 etcd-2 etcd-3 ${ETCD_HOSTS:-}
    issue services coordinator-1 coordinator-2 poller-1 poller-2 gateway-1 gateway-2 ${SERVICE_HOSTS:-}
    issue postgres postgres ${POSTGRES_HOSTS:-}
    issue balancer balancer ${BALANCER_HOSTS:-}
}
cat "$dir/balancer/cert.pem" "$dir/balancer/key.pem" >"$dir/balancer/both.pem"
