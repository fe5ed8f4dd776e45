#!/usr/bin/env bash
# A node whose certificate comes to its end gets new ones by itself, without a token; its pods do not notice.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
k apply -f - > /dev/null <<'END'
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "steady"}, "spec": {"nodeName": "node-1", "terminationGracePeriodSeconds": 1,
 "containers": [{"name": "main", "image": "busybox:1.36", "command": ["sleep", "3600"]}]}}
END
k wait --for=condition=Ready pod/steady --timeout=60s > /dev/null
told() { k get pod steady -o jsonpath='{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}'; }
identity=/var/lib/caravel/node/tls/identity.json
dir=$(mktemp -d)
field() { lab exec node-1 -- cat $identity | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
before=$(told)
client=$(field client_cert)
lab stop node-1
# A serving certificate that has lived its whole life: renewal is due at once.
printf '[ca]\ndefault_ca = c\n[c]\ndatabase = %s/db\nrand_serial = yes\nnew_certs_dir = %s\npolicy = p\ndefault_md = sha256\nx509_extensions = x\n[x]\nbasicConstraints = CA:false\n[p]\ncommonName = supplied\n' "$dir" "$dir" > "$dir/ca.cnf"
touch "$dir/db"
openssl req -new -newkey rsa:2048 -nodes -subj /CN=over -keyout "$dir/key" -out "$dir/csr" 2> /dev/null
openssl ca -batch -notext -selfsign -config "$dir/ca.cnf" -keyfile "$dir/key" -in "$dir/csr" -out "$dir/cert" -startdate 20200101000000Z -enddate 20210101000000Z 2> /dev/null
lab exec node-1 -- cat $identity |
  python3 -c 'import json, sys; i = json.load(sys.stdin); i["server_key"] = open(sys.argv[1]).read(); i["server_cert"] = open(sys.argv[2]).read(); print(json.dumps(i))' "$dir/key" "$dir/cert" > "$dir/new"
lab exec node-1 -- sh -c "cat > $identity" < "$dir/new"
lab start node-1
is_new() { [[ $(field client_cert) != "$client" ]]; }
eventually 60 is_new
field server_cert > "$dir/server"
field client_cert > "$dir/client"
openssl x509 -in "$dir/server" -noout -subject -enddate > "$dir/served"
has "$(cat "$dir/served")" system:node:node-1
eventually 60 k exec steady -- true
is "$(told)" "$before" 'the container before and after'
address=$(kubectl get node node-1 -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
openssl s_client -connect "$address:10250" < /dev/null 2> /dev/null | openssl x509 -noout -subject -enddate > "$dir/shown"
is "$(cat "$dir/shown")" "$(cat "$dir/served")" 'what port 10250 shows'
eventually 30 bash -c "[[ \$(kubectl get node node-1) == *' Ready '* ]]"
ok "new certificates, $(openssl x509 -in "$dir/client" -noout -enddate), and the same container"
rm -rf "$dir"
