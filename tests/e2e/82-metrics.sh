#!/usr/bin/env bash
# Metrics of server and node: clean to promtool, and scraped by Debian's Prometheus with a service account's token.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
dir=$(mktemp -d) prometheus=
clean() {
  [[ -z $prometheus ]] || kill "$prometheus" 2> /dev/null || true
  kubectl delete clusterrole,clusterrolebinding "$NS" --ignore-not-found > /dev/null 2>&1
  kubectl delete namespace "$NS" --wait=false > /dev/null 2>&1 || true
  rm -rf "$dir"
}
trap clean EXIT
kubectl config view --raw --minify -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d > "$dir/ca.crt"
server=$(kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}')
kubectl apply -f - > /dev/null <<END
{"apiVersion": "v1", "kind": "List", "items": [
 {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "prometheus", "namespace": "$NS"}},
 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "$NS"}, "rules": [
   {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
   {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]},
 {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "$NS"},
  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "$NS"},
  "subjects": [{"kind": "ServiceAccount", "name": "prometheus", "namespace": "$NS"}]}]}
END
(umask 077 && k create token prometheus > "$dir/token")
node=$(kubectl get node node-1 -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}')
scrape() { curl -sf --cacert "$dir/ca.crt" -H "Authorization: Bearer $(cat "$dir/token")" "$1"; }
is "$(curl -s -o /dev/null -w '%{http_code}' --cacert "$dir/ca.crt" "$server/metrics")" 403 'without a token'
timeout 3 kubectl get configmaps -w > /dev/null 2>&1 & # A watcher, so that there is something to count.
k create configmap counted --from-literal=a=b > /dev/null
for from in "$server/metrics" "https://$node:10250/metrics" "https://$node:10250/metrics/cadvisor" "https://$node:10250/metrics/resource"; do
  eventually 10 scrape "$from"
  scrape "$from" > "$dir/text"
  said=$(promtool check metrics < "$dir/text" 2>&1) || die "promtool, of $from: $said"
  is "$said" "" "promtool, of $from"
  ok "promtool has no complaint about $(grep -c '^# TYPE' "$dir/text") metrics of ${from#https://}"
done
scrape "$server/metrics" > "$dir/text"
for name in apiserver_request_total apiserver_request_duration_seconds apiserver_current_inflight_requests \
  apiserver_longrunning_requests apiserver_watch_events_total apiserver_storage_objects \
  apiserver_flowcontrol_dispatched_requests_total process_resident_memory_bytes \
  caravel_raft_term caravel_raft_leader_changes_total caravel_raft_append_duration_seconds \
  caravel_raft_commit_duration_seconds caravel_raft_replica_lag_entries caravel_raft_snapshot_index \
  caravel_store_object_bytes caravel_store_revision caravel_store_flush_duration_seconds \
  caravel_watch_watchers caravel_watch_delay_seconds caravel_sealing_key; do
  grep -q "^# TYPE $name " "$dir/text" || die "there is no $name"
done
ok "raft, store, watches and requests are told of"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$dir/prometheus.yml" <<END
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: caravel
    scheme: https
    bearer_token_file: $dir/token
    tls_config: {ca_file: $dir/ca.crt}
    static_configs: [{targets: ["${server#https://}"]}]
  - job_name: nodes
    scheme: https
    bearer_token_file: $dir/token
    tls_config: {ca_file: $dir/ca.crt}
    static_configs: [{targets: ["$node:10250"]}]
END
promtool check config "$dir/prometheus.yml" > /dev/null
prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/data" --web.listen-address="127.0.0.1:$port" > "$dir/log" 2>&1 &
prometheus=$!
query() { # the value of an expression, or nothing
  curl -sf "http://127.0.0.1:$port/api/v1/query" --data-urlencode "query=$1" |
    python3 -c 'import json,sys; print(*[one["value"][1] for one in json.load(sys.stdin)["data"]["result"]])'
}
says() { [[ $(query "$1") == "$2" ]]; }
eventually 30 says 'up{job="caravel"}' 1 || die "$(tail -n 5 "$dir/log")"
eventually 15 says 'up{job="nodes"}' 1
eventually 15 says 'caravel_raft_is_leader' 1
eventually 15 says 'histogram_quantile(0.5, rate(caravel_raft_append_duration_seconds_bucket[10s])) > bool 0' 1
ok "Prometheus scrapes server and node with a token: term $(query caravel_raft_term), $(query 'sum(apiserver_storage_objects)') objects"
