#!/usr/bin/env bash
# The gRPC services beside the API, driven by Google's python client through server reflection.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
python=/var/lib/caravel-tests/grpc/bin/python
[[ -x $python ]] || die "no $python: run deploy/setup/install-packages test"
eventually 20 k get serviceaccount default
file=$(mktemp -d)/one.snapshot
kubectl config view --raw --minify -o json |
  "$python" "${BASH_SOURCE[0]%/*}/by_reflection.py" "$NS" "$(k create token default)" "$CARAVEL" snapshot save --kubeconfig "$KUBECONFIG" "$file"
[[ -s $file ]] || die "no snapshot in $file"
rm -rf "$(dirname "$file")"

"$CARAVEL" certificate list
has "$("$CARAVEL" certificate list --output json)" '"certificate": "node node-1"'
hidden=hunter2-$RANDOM$RANDOM
k create secret generic hidden --from-literal=password="$hidden" > /dev/null
k create configmap hidden --from-literal=note="$hidden" > /dev/null
k run tells --image=busybox:1.36 --restart=Never --env=PASSWORD="$hidden" -- true > /dev/null
dir=$(mktemp -d)
"$CARAVEL" doctor --bundle "$dir/bundle.tar.gz" > "$dir/said" || die "the doctor found: $(cat "$dir/said")"
has "$(cat "$dir/said")" 'nothing is wrong: 1 server(s) and 2 node(s)'
is "$("$CARAVEL" doctor --output json | python3 -c 'import json,sys; print(json.load(sys.stdin)["healthy"])')" True
is "$(stat -c %a "$dir/bundle.tar.gz")" 600
tar -xzf "$dir/bundle.tar.gz" -C "$dir"
for file in findings.json nodes.json pods.json events.json metrics.txt servers.txt; do
  [[ -s $dir/caravel/$file ]] || die "the bundle lacks $file"
done
grep -q caravel_raft_term "$dir/caravel/metrics.txt" || die "no metrics in the bundle"
for secret in "$hidden" "$(base64 <<< "$hidden" | cut -c1-12)" 'PRIVATE KEY'; do
  if grep -rqF -- "$secret" "$dir/caravel"; then die "the bundle holds $secret: $(grep -rlF -- "$secret" "$dir/caravel")"; fi
done
ok "a healthy cluster; the bundle holds $(find "$dir/caravel" -type f | wc -l) files and no secret"
rm -rf "$dir"
