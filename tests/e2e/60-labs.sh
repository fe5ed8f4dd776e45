#!/usr/bin/env bash
# Two labs live side by side; `down` leaves nothing behind, also after a crash.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
other=$(mktemp -d)/lab
traces() { # ID: what that lab has in this machine, a line each
  ip -o link | grep -o "cvl$1[^:@]*" || true
  grep -o "$other[^ ]*" /proc/mounts || true
  find /sys/fs/cgroup -maxdepth 3 -name "caravel-lab-$1*" 2> /dev/null
  nft list tables 2> /dev/null | grep -o "caravel_lab_$1" || true
  pgrep -af -- "$other" | grep -v pgrep || true
}
nothing_left() { [[ -z $(traces "$1") ]] || { traces "$1"; return 1; }; }
for way in down crash; do
  "$CARAVEL" lab up --dir "$other" --servers 1 --nodes 1 --images "$IMAGES"
  config=$(eval "$("$CARAVEL" lab env --dir "$other")"; echo "$KUBECONFIG")
  kubectl --kubeconfig "$config" run early --image=nginx:1.23 > /dev/null
  kubectl --kubeconfig "$config" wait --for=condition=Ready pod/early --timeout=60s > /dev/null
  is "$(kubectl --kubeconfig "$config" get events --field-selector reason=Failed -o name)" '' 'pulls that failed while archives were imported'
  id=$(sed -n 's/^ *"id": "\(.*\)",/\1/p' "$other/lab.json")
  [[ $(traces "$id" | wc -l) -gt 5 ]] || die "the test sees no traces of a running lab: $(traces "$id")"
  has "$("$CARAVEL" lab status --dir "$other" --output json)" '"name":"node-1"'
  kubectl --kubeconfig "$config" get nodes | grep -q ' Ready '
  kubectl get --raw /readyz > /dev/null
  has "$("$CARAVEL" lab exec --dir "$other" node-1 -- hostname)" node-1
  if [[ $way == crash ]]; then
    "$CARAVEL" lab kill --dir "$other" node-1
    "$CARAVEL" lab kill --dir "$other" server-1
  fi
  "$CARAVEL" lab down --dir "$other"
  eventually 10 nothing_left "$id"
  ok "nothing is left after $way"
done
rm -rf "$(dirname "$other")"
