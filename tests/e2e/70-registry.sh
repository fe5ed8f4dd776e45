#!/usr/bin/env bash
# Images pulled from a real registry, by tag and by digest, over plain HTTP because the configuration says so; one that
# cannot be reached fails fast and holds nobody up.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
for need in docker-registry skopeo; do command -v $need > /dev/null || { echo "skip: no $need"; exit 0; }; done
dir=$(mktemp -d)
gateway=$(lab exec node-1 -- ip -4 route show default | awk '{ print $3; exit }')
port=$((20000 + RANDOM % 10000))
cat > "$dir/config.yml" <<END
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $dir/data}, delete: {enabled: true}}
http: {addr: $gateway:$port}
END
docker-registry serve "$dir/config.yml" > "$dir/log" 2>&1 &
registry=$!
restore() {
  kill "$registry" 2> /dev/null || true
  for node in node-1 node-2; do lab exec $node -- rm -f /etc/caravel/registries.yaml || true; lab stop $node; lab start $node; done
  kubectl delete namespace "$NS" --wait=false > /dev/null 2>&1 || true
  rm -rf "$dir"
}
trap restore EXIT
eventually 10 curl -sf "http://$gateway:$port/v2/"
skopeo copy -q --dest-tls-verify=false "docker-archive:$IMAGES/busybox.tar" "docker://$gateway:$port/team/tool:1"
digest=$(skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$gateway:$port/team/tool:1")
for node in node-1 node-2; do
  lab exec $node -- sh -c "printf 'mirrors:\n  \"%s\":\n    endpoint: [\"http://%s\"]\n' $gateway:$port $gateway:$port > /etc/caravel/registries.yaml"
  lab stop $node
  lab start $node
done
eventually 40 bash -c "[[ \$(kubectl get nodes | grep -c ' Ready ') == 2 ]]"
k run unreachable --image=registry.invalid/nothing:1
k run by-tag --image="$gateway:$port/team/tool:1" --command -- sleep 600
k run by-digest --image="$gateway:$port/team/tool@$digest" --command -- sleep 600
k wait --for=condition=Ready pod/by-tag pod/by-digest --timeout=60s
eventually 30 bash -c "[[ \$(kubectl -n $NS get pod unreachable) =~ ErrImagePull|ImagePullBackOff ]]"
has "$(k get pod by-digest -o jsonpath='{.status.containerStatuses[0].imageID}')" "$digest"
has "$(k get events --field-selector involvedObject.name=by-tag,reason=Pulled -o jsonpath='{.items[*].message}')" 'Successfully pulled image'
ok 'pulled by tag and by digest; the unreachable one held nobody up'
k delete pods --all --now > /dev/null
