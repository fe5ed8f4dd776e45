#!/usr/bin/env bash
# Every kubectl on this machine, old and new, does the everyday things; so does python's client, where it is there.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
refused() { # COMMAND...: fails, with a sentence
  local out
  if out=$("$@" 2>&1); then die "was not refused: $*"; fi
  [[ $out != *panic:* ]] || die "kubectl panics: $*"
  has "$out" rror
}
node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
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
  echo hello > "$tmp/file"
  "${kc[@]}" cp "$tmp/file" "$pod:/tmp/file"
  is "$("${kc[@]}" exec "$pod" -- cat /tmp/file)" hello
  "${kc[@]}" wait --for=condition=Ready "pod/$pod" --timeout=30s > /dev/null
  has "$("${kc[@]}" events --for "pod/$pod")" 'Started container nginx'
  "${kc[@]}" label pod "$pod" tier=front > /dev/null
  is "$("${kc[@]}" get pods -l tier=front --chunk-size=1 -o custom-columns=N:.metadata.name --no-headers)" "$pod"
  "${kc[@]}" annotate pod "$pod" note=x > /dev/null
  if "${kc[@]}" diff -f "$tmp/web.yaml" > /dev/null; then die 'diff does not see the image that was edited'; fi
  "${kc[@]}" set env deployment/web A=B > /dev/null
  "${kc[@]}" expose deployment web --port=80 > /dev/null
  has "$("${kc[@]}" describe service web)" 'Endpoints:'
  "${kc[@]}" taint node "$node" e2e=x:PreferNoSchedule > /dev/null
  "${kc[@]}" taint node "$node" e2e- > /dev/null
  "${kc[@]}" cordon "$node" > /dev/null
  has "$("${kc[@]}" get node "$node")" SchedulingDisabled
  "${kc[@]}" drain "$node" --ignore-daemonsets --force --delete-emptydir-data --pod-selector=app=web --timeout=60s > /dev/null 2>&1
  "${kc[@]}" uncordon "$node" > /dev/null
  # What is not offered yet says so: no panic of kubectl's, no success.
  refused "${kc[@]}" top pods
  refused "${kc[@]}" debug "$pod" --image=busybox
  refused "${kc[@]}" create job x --image=busybox
  is "$("${kc[@]}" get --raw /version | grep -c gitVersion)" 1
  has "$("${kc[@]}" get endpoints web 2>&1)" 'v1 Endpoints is deprecated in v1.33+'
  has "$("${kc[@]}" explain deployment.spec.replicas)" 'replicas'
  has "$("${kc[@]}" api-resources)" 'deployments'
  is "$("${kc[@]}" auth can-i create pods)" yes
  "${kc[@]}" apply --server-side -f - > /dev/null <<< '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"1"}}'
  "${kc[@]}" delete deployment,service web > /dev/null
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
