#!/usr/bin/env bash
# A killed shim takes its container with it and nothing else, and the container is started again; the node's port
# answers nobody whom the API server does not allow.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
k apply -f - > /dev/null <<'END'
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "two"}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
 {"name": "hit", "image": "busybox:1.36", "command": ["sleep", "3601"]}, {"name": "spared", "image": "busybox:1.36", "command": ["sleep", "3602"]}]}}
END
k wait --for=condition=Ready pod/two --timeout=60s > /dev/null
node=$(k get pod two -o jsonpath='{.spec.nodeName}')
of() { k get pod two -o jsonpath="{.status.containerStatuses[?(@.name==\"$1\")]$2}"; }
id=$(of hit .containerID) id=${id#*://}
spared=$(of spared '.containerID}{.restartCount}{.state.running.startedAt')
shim=$(pgrep -f "shim run .*$id")
kill -9 "$shim"
eventually 60 bash -c "[[ \$(kubectl -n $NS get pod two -o jsonpath='{.status.containerStatuses[?(@.name==\"hit\")].restartCount}') == 1 ]]"
eventually 60 k wait --for=condition=Ready pod/two --timeout=1s
is "$(of spared '.containerID}{.restartCount}{.state.running.startedAt')" "$spared" 'the other container'
is "$(pgrep -fc '^sleep 3601')" 1 'processes of the container whose shim was killed'
ok 'a killed shim: its container is started again, no process is left over, the other one is untouched'

address=$(kubectl get node "$node" -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
dir=$(mktemp -d)
port() { curl -sk --max-time 10 -o "$dir/body" -w '%{http_code}' "$@" || true; }
for path in healthz pods metrics "exec/$NS/two/spared?command=id&output=1" "containerLogs/$NS/two/spared"; do
  is "$(port "https://$address:10250/$path")" 401 "anonymous $path"
done
k create serviceaccount nobody > /dev/null
k create serviceaccount scraper > /dev/null
kubectl create clusterrole "$NS-metrics" --verb=get --resource=nodes/metrics > /dev/null
kubectl create clusterrolebinding "$NS-metrics" --clusterrole="$NS-metrics" --serviceaccount="$NS:scraper" > /dev/null
nobody=(-H "Authorization: Bearer $(k create token nobody)") scraper=(-H "Authorization: Bearer $(k create token scraper)")
is "$(port -H 'Authorization: Bearer made-up' "https://$address:10250/pods")" 401 'a token that is none'
is "$(port "${nobody[@]}" "https://$address:10250/metrics")" 403 'a token without rights'
has "$(cat "$dir/body")" "Forbidden (user=system:serviceaccount:$NS:nobody, verb=get, resource=nodes, subresource=metrics)"
is "$(port "${scraper[@]}" "https://$address:10250/metrics")" 200 'a token that may'
is "$(port "${scraper[@]}" -X POST "https://$address:10250/exec/$NS/two/spared?command=id&output=1")" 403 'a token that may something else'
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /O=system:masters/CN=system:kube-apiserver -keyout "$dir/key" -out "$dir/cert" 2> /dev/null
is "$(port --cert "$dir/cert" --key "$dir/key" "https://$address:10250/pods")" 000 'a forged certificate'
kubectl delete clusterrole,clusterrolebinding "$NS-metrics" > /dev/null
k delete pod two --now > /dev/null
rm -rf "$dir"
ok "the node's port: 401, 403 and no handshake for those who may not, 200 for the one who may"
