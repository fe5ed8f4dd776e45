#!/usr/bin/env bash
# kill -9 of the node daemon: its containers run on, and it takes them up again.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
k run steady --image=busybox:1.36 --command -- sh -c 'while true; do date +%s; sleep 1; done'
k wait --for=condition=Ready pod/steady --timeout=60s
node=$(k get pod steady -o jsonpath='{.spec.nodeName}')
id() { k get pod steady -o jsonpath='{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].state.running.startedAt}'; }
before=$(id)
lab kill "$node"
lines=$(lab exec "$node" -- sh -c "cat /var/log/pods/${NS}_steady_*/steady/0.log | wc -l")
eventually 20 bash -c "(( \$('$CARAVEL' lab exec --dir '$LAB' $node -- sh -c 'cat /var/log/pods/${NS}_steady_*/steady/0.log | wc -l') > $lines + 2 ))"
echo "     it writes on while its daemon is dead"
lab start "$node"
eventually 60 k exec steady -- true
is "$(id)" "$before" 'container before and after'
k delete pod steady --now --timeout=40s
ok "the container outlived its daemon and is the same"
