#!/usr/bin/env bash
# An archive that is imported into a running lab is there at once for pods that never pull, and goes again.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
command -v skopeo > /dev/null || { echo "skip: no skopeo"; exit 0; }
dir=$(mktemp -d)
name=docker.io/library/imported-$RANDOM:1
skopeo copy -q "docker-archive:$IMAGES/busybox.tar" "docker-archive:$dir/imported.tar:$name"
k run before --image="$name" --image-pull-policy=Never --command -- sleep 600
eventually 30 bash -c "[[ \$(kubectl -n $NS get pod before) == *ErrImageNeverPull* ]]"
"$CARAVEL" lab image import --dir "$LAB" "$dir/imported.tar" > "$dir/out" || die "$(cat "$dir/out")"
has "$(cat "$dir/out")" "$name"
k run after --image="$name" --image-pull-policy=Never --command -- sleep 600
k wait --for=condition=Ready pod/after --timeout=60s
eventually 60 bash -c "[[ \$(kubectl -n $NS get pod before) == *Running* ]]"
node=$(k get pod after -o jsonpath='{.spec.nodeName}')
has "$(lab exec "$node" -- "$CARAVEL" image list)" "$name"
k delete pods --all --now > /dev/null
for node in node-1 node-2; do lab exec $node -- "$CARAVEL" image remove "$name"; done
[[ $(lab exec "$node" -- "$CARAVEL" image list) != *"$name"* ]] || die "$name is listed after its removal"
rm -rf "$dir"
ok 'an imported archive runs without a pull'
