#!/bin/sh
# Makes an authority and what it signs for a cluster: etcd, the services, PostgreSQL, the load balancer. For trying out
# and as a starting point; what is there already is kept, so run it again to renew what you have deleted.
#
#   deploy/make-certificates.sh DIR [DAYS]        # 365 by default; the authority ten times as long
#
# DIR/ca.pem is what everybody trusts. DIR/ca.key signs: keep it off the hosts. DIR/<who>/{cert,key}.pem are one pair
# each; DIR/balancer/both.pem is its pair in one file, as haproxy reads it. Hosts beside those of docker-compose.yml:
# ETCD_HOSTS, SERVICE_HOSTS, POSTGRES_HOSTS, BALANCER_HOSTS (separated by spaces). Needs openssl 1.1.1 or later.
set -eu
umask 077

dir=${1:?where to}
days=${2:-365}
mkdir -p "$dir"

if [ ! -s "$dir/ca.key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$((days * 10))" \
        -subj "/CN=Pollcast" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
    chmod 644 "$dir/ca.pem"
fi

# issue WHO HOST…: a pair for all of these hosts, good as a server and as a client
issue() {
    who=$1
    shift
    if [ -s "$dir/$who/cert.pem" ]; then return; fi
    names=
    for host in "$@" localhost; do names="${names}DNS:$host,"; done
    mkdir -p "$dir/$who"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=pollcast $who" \
        -keyout "$dir/$who/key.pem" -out "$dir/$who/request.pem" 2>/dev/null
    cat >"$dir/$who/extensions" <<END
basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName=${names}IP:127.0.0.1,IP:::1
END
    openssl x509 -req -in "$dir/$who/request.pem" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial \
        -days "$days" -extfile "$dir/$who/extensions" -out "$dir/$who/cert.pem" 2>/dev/null
    rm "$dir/$who/request.pem" "$dir/$who/extensions"
    echo "made $dir/$who/cert.pem for $*"
}

# shellcheck disable=SC2086 # lists of hosts
{
    issue etcd etcd-1 etcd-2 etcd-3 ${ETCD_HOSTS:-}
    issue services coordinator-1 coordinator-2 poller-1 poller-2 gateway-1 gateway-2 ${SERVICE_HOSTS:-}
    issue postgres postgres ${POSTGRES_HOSTS:-}
    issue balancer balancer ${BALANCER_HOSTS:-}
}
cat "$dir/balancer/cert.pem" "$dir/balancer/key.pem" >"$dir/balancer/both.pem"
