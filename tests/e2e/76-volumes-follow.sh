#!/usr/bin/env bash
# What volumes are made of is watched: a change is in the pod within seconds, also after the daemon was away.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
k create configmap page --from-literal=text=one > /dev/null
k create secret generic word --from-literal=text=one > /dev/null
k apply -f - > /dev/null <<'END'
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": {"terminationGracePeriodSeconds": 1,
 "containers": [{"name": "main", "image": "busybox:1.36", "command": ["sleep", "3600"], "volumeMounts": [
  {"name": "page", "mountPath": "/page"}, {"name": "both", "mountPath": "/both"}]}],
 "volumes": [{"name": "page", "configMap": {"name": "page"}},
  {"name": "both", "projected": {"sources": [{"secret": {"name": "word"}}, {"configMap": {"name": "later", "optional": true}}]}}]}}
END
k wait --for=condition=Ready pod/reader --timeout=60s > /dev/null
reads() { # FILE TEXT
  [[ $(kubectl -n "$NS" exec reader -- cat "$1" 2> /dev/null) == "$2" ]]
}
k create configmap page --from-literal=text=two --dry-run=client -o yaml | k replace -f - > /dev/null
eventually 15 reads /page/text two
k create secret generic word --from-literal=text=two --dry-run=client -o yaml | k replace -f - > /dev/null
eventually 15 reads /both/text two
k create configmap later --from-literal=new=here > /dev/null
eventually 15 reads /both/new here
k delete configmap later > /dev/null
eventually 15 k exec reader -- sh -c '! test -e /both/new'
ok 'a changed ConfigMap, a changed Secret, one that came and went: all in the pod at once'
node=$(k get pod reader -o jsonpath='{.spec.nodeName}')
lab kill "$node"
k create configmap page --from-literal=text=three --dry-run=client -o yaml | k replace -f - > /dev/null
lab start "$node"
eventually 60 reads /page/text three
k create configmap page --from-literal=text=four --dry-run=client -o yaml | k replace -f - > /dev/null
eventually 15 reads /page/text four
ok 'also what changed while the daemon was away, and after that'
k delete pod reader --now > /dev/null
