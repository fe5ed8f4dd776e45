#!/usr/bin/env bash
# The demo of `make up`: three nginx pods, their page from a ConfigMap, reached by name and by node port.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
sed 's/nodePort: 30080/nodePort: 30980/' "$(dirname "${BASH_SOURCE[0]}")/../../examples/first-light/nginx.yaml" | k apply -f -
k rollout status deployment/nginx --timeout=90s
is "$(k get deployment nginx -o jsonpath='{.status.readyReplicas}')" 3
k run ask --image=busybox:1.36 --restart=Never --command -- sleep 600
k wait --for=condition=Ready pod/ask --timeout=60s
eventually 20 k exec ask -- wget -q -O - http://nginx
has "$(k exec ask -- wget -q -O - "http://nginx.$NS.svc.cluster.local")" 'Hello from Caravel'
for address in $(kubectl get nodes -o jsonpath='{.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do
  eventually 20 curl -sf --max-time 3 "http://$address:30980"
  has "$(curl -sf --max-time 3 "http://$address:30980")" 'Hello from Caravel'
done
ok "nginx answers by Service name and by node port of every node"
