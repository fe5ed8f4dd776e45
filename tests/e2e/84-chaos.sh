#!/usr/bin/env bash
# Faults under load on three servers, in short: what was acknowledged is there, what was read was right, no watcher missed
# anything. All of it at length: make chaos.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [[ -z ${CHAOS:-} ]]; then
  (cd "$top" && cargo build --quiet --locked -p caravel-chaos)
  CHAOS=${CARGO_TARGET_DIR:-$top/target}/debug/caravel-chaos
fi
other=$(mktemp -d)/lab
trap '"$CARAVEL" lab down --dir "$other" > /dev/null 2>&1; rm -rf "$(dirname "$other")"' EXIT
"$CARAVEL" lab up --dir "$other" --servers 3 --nodes 1 --images "$IMAGES"
scenarios=(leader-killed leader-isolated leader-paused all-killed restore)
[[ ! -e /dev/fuse ]] || scenarios+=(power-cut)
"$CHAOS" run --caravel "$CARAVEL" --dir "$other" --histories "$other/histories" --kills 3 --pause 5 --hold 2 --power 2 \
  "${scenarios[@]}"
ok "nothing acknowledged was lost, nothing old was read, no watcher missed a change"
