#!/usr/bin/env bash
# What is wrong is refused with the right status, and the server goes on.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
dir=$(mktemp -d)
server=$(kubectl config view --raw --minify -o jsonpath='{.clusters[0].cluster.server}')
for part in client-certificate-data client-key-data; do
  kubectl config view --raw --minify -o jsonpath="{.users[0].user.$part}" | base64 -d > "$dir/$part"
done
kubectl config view --raw --minify -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d > "$dir/ca"
anonymous() { curl -s --max-time 20 --cacert "$dir/ca" "$@"; }
admin() { anonymous --cert "$dir/client-certificate-data" --key "$dir/client-key-data" "$@"; }
status() { # EXPECTED WHAT CURL-ARGUMENTS...: as administrator
  local got
  got=$(admin -o "$dir/body" -w '%{http_code}' "${@:3}") || true
  [[ $got == "$1" ]] || die "$2: expected $1, not $got: $(head -c 400 "$dir/body")"
  ok "$1 $2"
}
maps=$server/api/v1/namespaces/$NS/configmaps
json=(-H 'Content-Type: application/json')
python3 -c 'print("{\"a\":" * 10000 + "1" + "}" * 10000)' > "$dir/deep"
python3 -c 'import json; print(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": "x" * 4000000}}))' > "$dir/big"
python3 -c 'import json; print(json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "many", "labels": {f"l{i}": "v" * 60 for i in range(20000)}}}))' > "$dir/labels"
status 400 'malformed JSON' "${json[@]}" -d '{"apiVersion": ' "$maps"
status 400 'malformed YAML' -H 'Content-Type: application/yaml' --data-binary $'a: b\n\tc: d' "$maps"
status 400 'a wrong type' "${json[@]}" -d '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":[1]}' "$maps"
status 400 'an unknown field under Strict' "${json[@]}" -d '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dta":{}}' "$maps?fieldValidation=Strict"
status 201 'an unknown field under Ignore' "${json[@]}" -d '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"ignored"},"dta":{}}' "$maps?fieldValidation=Ignore"
status 422 'an invalid name' "${json[@]}" -d '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"Not_A_Name"}}' "$maps"
has "$(cat "$dir/body")" metadata.name
status 413 'a body of 4 MB' "${json[@]}" --data-binary @"$dir/big" "$maps"
status 400 'JSON 10,000 deep' "${json[@]}" --data-binary @"$dir/deep" "$maps"
status 413 '20,000 labels' "${json[@]}" --data-binary @"$dir/labels" "$maps"
status 415 'a wrong content type' -H 'Content-Type: text/plain' -d 'x' "$maps"
status 406 'an unacceptable answer type' -H 'Accept: image/png' "$maps"
status 404 'an unknown kind' "$server/api/v1/namespaces/$NS/nonsenses"
status 404 'an unknown object' "$maps/none"
status 405 'a verb that the kind lacks' -X DELETE "$server/api/v1"
k create configmap stale --from-literal=a=1 > /dev/null
admin "$maps/stale" > "$dir/stale"
k label configmap stale new=label > /dev/null
status 409 'a stale write' -X PUT "${json[@]}" --data-binary @"$dir/stale" "$maps/stale"
got=$(anonymous -o "$dir/body" -w '%{http_code}' "$maps")
is "$got" 403 'anonymous list'
has "$(cat "$dir/body")" 'User \"system:anonymous\" cannot list resource \"configmaps\"'
is "$(anonymous -o /dev/null -w '%{http_code}' -H 'Authorization: Bearer nonsense' "$maps")" 401 'a bad token'
is "$(anonymous -o /dev/null -w '%{http_code}' "$server/livez")" 200 'anonymous health'
ok '401 and 403 where they belong'
# A body that is cut off, and a client that sends nothing: the server stays ready.
port=${server##*:} host=${server#https://} host=${host%:*}
(printf 'POST /api/v1/namespaces/%s/configmaps HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"a"' "$NS"; read -rt 1 <> <(:) || true) |
  openssl s_client -quiet -connect "$host:$port" -cert "$dir/client-certificate-data" -key "$dir/client-key-data" > /dev/null 2>&1 || true
kubectl get --raw /readyz > /dev/null
ok 'the server goes on after a body that was cut off'
rm -rf "$dir"
