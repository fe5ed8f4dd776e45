#!/usr/bin/env bash
# Two labs live side by side; `down` leaves nothing behind, also after a crash.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
other=$(mktemp -d)/lab
traces() { # what a lab leaves in the machine, if it leaves anything
  ip -o link | wc -l
  ip netns list 2> /dev/null | wc -l
  wc -l < /proc/mounts
  find /sys/fs/cgroup -maxdepth 4 -name '*caravel*' 2> /dev/null | wc -l
  nft list tables 2> /dev/null | wc -l
  pgrep -fc "$(basename "$CARAVEL") " || true
}
before=$(traces)
same() { [[ $(traces) == "$before" ]]; }
for way in down crash; do
  "$CARAVEL" lab up --dir "$other" --servers 1 --nodes 1
  has "$("$CARAVEL" lab status --dir "$other" --output json)" '"name":"node-1"'
  KUBECONFIG=$(eval "$("$CARAVEL" lab env --dir "$other")"; echo "$KUBECONFIG") kubectl get nodes | grep -q ' Ready '
  kubectl get --raw /readyz > /dev/null
  has "$("$CARAVEL" lab exec --dir "$other" node-1 -- hostname)" node-1
  if [[ $way == crash ]]; then
    "$CARAVEL" lab kill --dir "$other" node-1
    "$CARAVEL" lab kill --dir "$other" server-1
  fi
  "$CARAVEL" lab down --dir "$other"
  eventually 10 same
  ok "nothing is left after $way"
done
rm -rf "$(dirname "$other")"
