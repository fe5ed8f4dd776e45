#!/usr/bin/env bash
# Three servers: any of them serves, the leader dies, members come and go, and a backup brings the cluster back.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
other=$(mktemp -d)/lab
trap '"$CARAVEL" lab down --dir "$other" > /dev/null 2>&1; rm -rf "$(dirname "$other")"' EXIT
"$CARAVEL" lab up --dir "$other" --servers 3 --nodes 1 --images "$IMAGES"
eval "$("$CARAVEL" lab env --dir "$other")"
own() { "$CARAVEL" lab "$1" --dir "$other" "${@:2}"; }
on() { own exec "$1" -- "${@:2}"; } # HOST COMMAND...
leader() {
  own status --output json | python3 -c 'import json,sys
print(next((h["name"] for h in json.load(sys.stdin)["hosts"] if h["leader"]), ""))'
}
voters() {
  "$CARAVEL" member list --output json | python3 -c 'import json,sys
print(sum(m["role"] == "voter" for m in json.load(sys.stdin)["members"]))'
}
has_voters() { [[ $(voters) == "$1" ]]; }
leads() { local now; now=$(leader); [[ -n $now && $now != "$1" ]]; }
at() { kubectl --server "$1" --request-timeout=15s "${@:2}"; } # URL ...

IFS=, read -ra urls <<< "$CARAVEL_SERVERS"
is "${#urls[@]}" 3 servers
for n in 0 1 2; do
  at "${urls[n]}" create configmap "by-$n" --from-literal=from="${urls[n]}" > /dev/null
  for reader in "${urls[@]}"; do at "$reader" get configmap "by-$n" > /dev/null; done
done
ok "what one server wrote, every server reads"

risen() {
  "$CARAVEL" member list --output json | python3 -c 'import json,sys
known = json.load(sys.stdin)
sys.exit(not all(m["supportsLevel"] == known["level"] > 1 for m in known["members"]))'
}
eventually 30 risen
ok "the level of log entries rose to what all servers support"

kubectl run sleeper --image=busybox:1.36 --restart=Always --command -- sleep 3600 > /dev/null
kubectl wait --for=condition=Ready pod/sleeper --timeout=60s > /dev/null
started=$(kubectl get pod sleeper -o jsonpath='{.status.containerStatuses[0].containerID}')
first=$(leader)
own kill "$first"
eventually 30 kubectl create configmap after-the-leader --from-literal=a=b
eventually 30 leads "$first"
kubectl create deployment late --image=busybox:1.36 -- sleep 3600 > /dev/null
kubectl rollout status deployment/late --timeout=60s > /dev/null
has "$("$CARAVEL" member transfer-leadership "$first" 2>&1 || true)" 'does not answer'
own start "$first"
eventually 60 kubectl --server "https://$(own status --output json | python3 -c "import json,sys
print(next(h['address'] for h in json.load(sys.stdin)['hosts'] if h['name'] == '$first'))"):6443" get configmap after-the-leader
ok "the leader was killed: another leads, pods still start, and it came back"

"$CARAVEL" member transfer-leadership server-3
eventually 20 bash -c "[[ \$($(declare -f own leader); CARAVEL='$CARAVEL' other='$other' leader) == server-3 ]]"
"$CARAVEL" member remove server-3
eventually 20 has_voters 2
gone() { ! own status | grep -q 'server-3 .* yes '; }
eventually 30 gone
has "$(tail -n 20 "$other/logs/server-3.log")" 'was removed from the cluster'
on server-3 mv /var/lib/caravel/server /var/lib/caravel/server.old
ok "the leader itself was removed, and told so"

join=$("$CARAVEL" member add 2> /dev/null)
has "$join" 'caravel server --join https://'
on server-3 sh -c "umask 077; echo '${join##* }' > /etc/caravel/join-token"
own start server-3
eventually 60 has_voters 3
has "$("$CARAVEL" member list)" '4    server-3'
ok "it joined again under a new number"

"$CARAVEL" snapshot save "$other/one.snapshot" 2> /dev/null
kubectl delete configmap after-the-leader > /dev/null
for n in 1 2 3; do own stop server-$n; done
on server-1 "$CARAVEL" snapshot verify "$other/one.snapshot" | grep -q '^whole: '
on server-1 "$CARAVEL" snapshot restore "$other/one.snapshot" --replace --advertise-address "$(own status --output json | python3 -c "import json,sys
print(next(h['address'] for h in json.load(sys.stdin)['hosts'] if h['name'] == 'server-1'))")"
own start server-1
eventually 60 kubectl get configmap after-the-leader
eventually 60 bash -c "kubectl get nodes | grep -q ' Ready '"
is "$(kubectl get pod sleeper -o jsonpath='{.status.containerStatuses[0].containerID}')" "$started" 'the container of before'
kubectl run fresh --image=busybox:1.36 --restart=Never --command -- true > /dev/null
eventually 60 bash -c "kubectl get pod fresh | grep -q Completed"
ok "a backup brought the cluster back; its container never stopped"
