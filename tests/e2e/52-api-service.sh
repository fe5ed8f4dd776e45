#!/usr/bin/env bash
# The API's own Service comes back, and has the living servers behind it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
service() { kubectl -n default get service kubernetes -o jsonpath='{.spec.clusterIP}'; }
listed() { kubectl -n default get endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[0]}' | tr ' ' '\n' | sort | xargs; }
servers() { lab status --output json | python3 -c 'import json, sys; print(" ".join(sorted(h["address"] for h in json.load(sys.stdin)["hosts"] if h["role"] == "server" and h["running"])))'; }
all_listed() { is "$(listed)" "$(servers)"; }
ip=$(service)
eventually 30 all_listed
ok "the servers $(listed) are behind $ip"
kubectl -n default delete service kubernetes > /dev/null
eventually 30 service > /dev/null
is "$(service)" "$ip" 'the same address'
kubectl -n default delete endpointslice kubernetes > /dev/null
eventually 30 all_listed
kubectl -n default patch endpoints kubernetes -p '{"subsets":[{"addresses":[{"ip":"192.0.2.1"}],"ports":[{"name":"https","port":1}]}]}' > /dev/null 2>&1
restored() { is "$(kubectl -n default get endpoints kubernetes -o jsonpath='{.subsets[*].addresses[*].ip}' 2> /dev/null | tr ' ' '\n' | sort | xargs)" "$(servers)"; }
eventually 30 restored
ok 'the Service, its slice and its Endpoints are put back'
