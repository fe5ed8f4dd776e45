# shellcheck shell=bash
# What the end-to-end tests share. Each test is a bash script that sources this, runs on the lab that
# KUBECONFIG and LAB name, and exits non-zero at the first thing that is not as it should be.
set -Eeuo pipefail
trap 'echo "failed at ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR

NS=e2e-$(basename "${BASH_SOURCE[1]}" .sh)
kubectl get --raw /readyz > /dev/null
kubectl delete namespace "$NS" --ignore-not-found --timeout=60s > /dev/null
kubectl create namespace "$NS" > /dev/null
trap 'kubectl delete namespace "$NS" --wait=false > /dev/null 2>&1 || true' EXIT

k() { kubectl -n "$NS" "$@"; }
ok() { echo "ok   $*"; }
die() { echo "FAIL $*" >&2; exit 1; }
eventually() { # SECONDS COMMAND...: polls until the command succeeds
  local end=$((SECONDS + $1)) out
  shift
  until out=$("$@" 2>&1); do
    ((SECONDS < end)) || { printf 'not in time: %s\n%s\n' "$*" "$out" >&2; return 1; }
    read -rt 0.2 <> <(:) || true
  done
}
is() { [[ $1 == "$2" ]] || die "expected '$2', not '$1'${3:+ ($3)}"; }
has() { [[ $1 == *"$2"* ]] || die "expected '$2' in: $1"; }
lab() { # VERB ARGS...
  "$CARAVEL" lab "$1" --dir "$LAB" "${@:2}"
}
