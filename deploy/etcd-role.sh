#!/bin/sh
# Creates a user for Pollcast in etcd that can read and write its own prefix and nothing else, and switches on etcd's
# authentication. It can be run again: existing users and roles are kept, and passwords are set again.
#
#   ETCDCTL_ENDPOINTS=https://etcd-1:2379 ETCDCTL_CACERT=ca.pem \
#   ROOT_PASSWORD=… POLLCAST_ETCD_PASSWORD=… deploy/etcd-role.sh [USER] [NAMESPACE]
#
# USER is `pollcast`, NAMESPACE (POLLCAST_NAMESPACE) `/pollcast` by default. Needs etcdctl 3.4 or later. It passes
# passwords through standard input and the environment, never as an argument that other users of the machine could see.
set -eu

user=${1:-pollcast}
namespace=${2:-/pollcast}
: "${ROOT_PASSWORD:?the password of the user root, the administrator of etcd}"
: "${POLLCAST_ETCD_PASSWORD:?the password of the user for Pollcast}"
etcdctl=${ETCDCTL:-etcdctl}

case $namespace in
    /*/ | */) echo "the namespace must not end with a slash" >&2; exit 2 ;;
    /?*) ;;
    *) echo "the namespace must start with a slash" >&2; exit 2 ;;
esac

for password in "$ROOT_PASSWORD" "$POLLCAST_ETCD_PASSWORD"; do
    case $password in
        *[[:space:]]*) echo "etcdctl reads a password only up to the first space: choose another one" >&2; exit 2 ;;
    esac
done

export ETCDCTL_API=3
if ! "$etcdctl" user list >/dev/null 2>&1; then # authentication is on already
    export ETCDCTL_USER="root:$ROOT_PASSWORD"
fi

# add_user NAME PASSWORD
add_user() {
    if "$etcdctl" user get "$1" >/dev/null 2>&1; then
        printf '%s\n' "$2" | "$etcdctl" user passwd "$1" --interactive=false
    else
        printf '%s\n' "$2" | "$etcdctl" user add "$1" --interactive=false
    fi
}

add_user root "$ROOT_PASSWORD"
"$etcdctl" role get root >/dev/null 2>&1 || "$etcdctl" role add root
"$etcdctl" user grant-role root root >/dev/null

"$etcdctl" role get "$user" >/dev/null 2>&1 || "$etcdctl" role add "$user"
"$etcdctl" role grant-permission "$user" --prefix=true readwrite "$namespace/"
add_user "$user" "$POLLCAST_ETCD_PASSWORD"
"$etcdctl" user grant-role "$user" "$user" >/dev/null

if [ -z "${ETCDCTL_USER:-}" ]; then
    "$etcdctl" auth enable
fi
