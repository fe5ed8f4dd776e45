#!/usr/bin/env bash
# Every kubectl on this machine, old and new, does the everyday things; so does python's client, where it is there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
everyday() { # KUBECTL
  local kc=("$1" -n "$NS") version
  version=$("$1" version --client -o json 2> /dev/null | sed -n 's/.*"gitVersion": "\(.*\)".*/\1/p')
  "${kc[@]}" create deployment web --image=nginx:1.16.1 --dry-run=client -o yaml > "$tmp/web.yaml"
  "${kc[@]}" apply -f "$tmp/web.yaml" > /dev/null
  "${kc[@]}" rollout status deployment/web --timeout=60s > /dev/null
  has "$("${kc[@]}" get deployments -o wide)" 'IMAGES'
  has "$("${kc[@]}" describe deployment web)" 'ScalingReplicaSet'
  "${kc[@]}" scale deployment web --replicas=2 > /dev/null
  KUBE_EDITOR="sed -i s/nginx:1.16.1/nginx:1.9.1/" "${kc[@]}" edit deployment web > /dev/null
  "${kc[@]}" rollout status deployment/web --timeout=60s > /dev/null
  "${kc[@]}" patch deployment web -p '{"spec":{"minReadySeconds":1}}' > /dev/null
  "${kc[@]}" rollout undo deployment web > /dev/null
  "${kc[@]}" rollout status deployment/web --timeout=60s > /dev/null
  pod=$("${kc[@]}" get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
  eventually 30 "${kc[@]}" exec "$pod" -- nginx -v
  "${kc[@]}" logs "$pod" > /dev/null
  has "$("${kc[@]}" explain deployment.spec.replicas)" 'replicas'
  has "$("${kc[@]}" api-resources)" 'deployments'
  is "$("${kc[@]}" auth can-i create pods)" yes
  "${kc[@]}" apply --server-side -f - > /dev/null <<< '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"1"}}'
  "${kc[@]}" delete deployment web > /dev/null
  "${kc[@]}" delete configmap applied > /dev/null
  ok "kubectl $version"
}
tmp=$(mktemp -d)
for kubectl in $(ls /usr/lib/google-cloud-sdk/bin/kubectl.1.27 2> /dev/null) kubectl; do everyday "$kubectl"; done
python=
for candidate in python3 /usr/bin/python3; do "$candidate" -c 'import kubernetes' 2> /dev/null && python=$candidate && break; done
if [[ $python ]]; then
  "$python" - "$NS" <<'END'
import sys
from kubernetes import client, config, watch
ns = sys.argv[1]
config.load_kube_config()
core = client.CoreV1Api()
core.create_namespaced_config_map(ns, {"metadata": {"name": "from-python"}, "data": {"a": "1"}})
listed = core.list_namespaced_config_map(ns)
assert "from-python" in [m.metadata.name for m in listed.items]
core.patch_namespaced_config_map("from-python", ns, {"data": {"b": "2"}})
seen = None
for event in watch.Watch().stream(core.list_namespaced_config_map, ns, resource_version=listed.metadata.resource_version, timeout_seconds=5):
    seen = event
    break
assert seen and seen["type"] == "MODIFIED" and seen["object"].data == {"a": "1", "b": "2"}, seen
END
  ok "python's kubernetes client lists, watches and patches"
else
  echo "skip python's kubernetes client: not installed"
fi
rm -rf "$tmp"
