#!/usr/bin/env bash
# A pod that names its node itself and does not fit there has failed, says why, and takes nothing away from others.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
bound() { # NAME SPEC-FIELDS CONTAINER-FIELDS: a pod bound to node-1
  k apply -f - > /dev/null <<END
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "$1"}, "spec": {"nodeName": "node-1", "terminationGracePeriodSeconds": 1, $2
 "containers": [{"name": "main", "image": "busybox:1.36", "command": ["sleep", "3600"], $3 "imagePullPolicy": "IfNotPresent"}]}}
END
}
failed() { # NAME REASON MESSAGE-PART
  eventually 20 bash -c "[[ \$(kubectl -n $NS get pod $1 -o jsonpath='{.status.phase} {.status.reason}') == 'Failed $2' ]]"
  has "$(k get pod "$1" -o jsonpath='{.status.message}')" 'Pod was rejected: '
  has "$(k get pod "$1" -o jsonpath='{.status.message}')" "$3"
  has "$(k get pod "$1" --no-headers)" "$2"
  eventually 10 bash -c "[[ \$(kubectl -n $NS get events --field-selector involvedObject.name=$1,reason=$2) == *'$3'* ]]"
  ok "$2"
}
bound giant '' '"resources": {"requests": {"cpu": "900"}},'
failed giant OutOfcpu 'have enough resource: cpu, requested: 900000'
bound elsewhere '"nodeSelector": {"no": "such"},' ''
failed elsewhere NodeAffinity 'Predicate NodeAffinity failed: node(s) didn'
bound first '' '"ports": [{"containerPort": 80, "hostPort": 18080}],'
k wait --for=condition=Ready pod/first --timeout=60s > /dev/null
bound second '' '"ports": [{"containerPort": 80, "hostPort": 18080}],'
failed second NodePorts 'Predicate NodePorts failed'
k label node node-1 such=yes > /dev/null
bound labelled '"nodeSelector": {"such": "yes"},' ''
k wait --for=condition=Ready pod/labelled --timeout=60s > /dev/null
k label node node-1 such- > /dev/null
lab kill node-1
lab start node-1
eventually 60 k exec labelled -- true
is "$(k get pods -o jsonpath='{.items[*].status.phase}' | tr ' ' '\n' | sort | uniq -c | xargs)" '3 Failed 2 Running' 'phases after the daemon was away'
ok 'what was taken stays taken, though the node has changed since'
k delete pods --all --now > /dev/null
