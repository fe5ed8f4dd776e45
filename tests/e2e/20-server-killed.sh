#!/usr/bin/env bash
# kill -9 of the server while clients write: every object whose creation was acknowledged is there afterwards.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
acknowledged=$(mktemp)
trap 'rm -f "$acknowledged"*; kubectl delete namespace "$NS" --wait=false > /dev/null 2>&1 || true' EXIT # the writers end with their file
writer() { # N: creates ConfigMaps until told to stop, and notes each that was acknowledged
  local i=0
  while [[ -e $acknowledged.go ]]; do
    i=$((i + 1))
    k create configmap "w$1-$i" --from-literal=i=$i --request-timeout=5s > /dev/null 2>&1 && echo "w$1-$i" >> "$acknowledged.$1"
  done
}
touch "$acknowledged".{1,2,3} "$acknowledged.go"
for n in 1 2 3; do writer $n & done
for round in 1 2 3; do
  before=$(cat "$acknowledged".[0-9] 2> /dev/null | wc -l)
  eventually 30 bash -c "(( \$(cat $acknowledged.[0-9] | wc -l) >= $before + 10 ))"
  lab kill server-1
  lab start server-1
  eventually 30 kubectl get --raw /readyz
  echo "     round $round: killed and back"
done
rm "$acknowledged.go"
wait
sort "$acknowledged".[0-9] > "$acknowledged.all"
k get configmaps -o name | sed 's#configmap/##' | sort > "$acknowledged.found"
lost=$(comm -23 "$acknowledged.all" "$acknowledged.found")
is "$lost" '' 'acknowledged objects that are gone'
ok "$(wc -l < "$acknowledged.all") acknowledged objects survived three kills"
rm -f "$acknowledged"*
