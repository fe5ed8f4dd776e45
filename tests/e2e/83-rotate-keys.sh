#!/usr/bin/env bash
# The key that all data is sealed with is replaced under load: used once every server holds it, the old one put aside.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
other=$(mktemp -d)/lab load= watch=
clean() {
  for one in $load $watch; do kill "$one" 2> /dev/null || true; done
  "$CARAVEL" lab down --dir "$other" > /dev/null 2>&1
  rm -rf "$(dirname "$other")"
}
trap clean EXIT
python=/var/lib/caravel-tests/grpc/bin/python
[[ -x $python ]] || die "no $python: run deploy/setup/install-packages test"
"$CARAVEL" lab up --dir "$other" --servers 3 --nodes 1
eval "$("$CARAVEL" lab env --dir "$other")"
own() { "$CARAVEL" lab "$1" --dir "$other" "${@:2}"; }
on() { own exec "$1" -- "${@:2}"; } # HOST COMMAND...
keys() { # an expression over the sealing `s`
  "$CARAVEL" certificate keys --output json | python3 -c 'import json,sys
s = json.load(sys.stdin); members = s["members"]
print('"$1"')'
}
all_use() { [[ $(keys 'len(members), all(m["reached"] and m["key"] == m["holds"][0] == '"$2"' and len(m["holds"]) == 1 and not m["resealing"] for m in members)') == "$1 True" ]]; }
IFS=, read -ra urls <<< "$CARAVEL_SERVERS"
kubectl config view --raw --minify -o json | "$python" "${BASH_SOURCE[0]%/*}/watch_events.py" "${urls[0]}" > "$other/events" &
watch=$!
happened() { grep -q "^$1" "$other/events" || { cat "$other/events"; return 1; }; }
eventually 10 happened began
for url in "${urls[@]}"; do
  sed "s|server: .*|server: $url|" "$KUBECONFIG" > "$other/one.yaml"
  lags() { [[ $("$CARAVEL" member list --kubeconfig "$other/one.yaml" --output json | python3 -c 'import json,sys
print(all(m["lag"] is not None for m in json.load(sys.stdin)["members"]))') == True ]]; }
  eventually 10 lags
done
ok "any server says how far all are"
hidden=hunter2-$RANDOM$RANDOM
kubectl create secret generic hidden --from-literal=password="$hidden" > /dev/null
"$CARAVEL" snapshot save "$other/old.snapshot" 2> /dev/null
all_use 3 1 || die "$(keys s)"

# Writes for as long as the test lasts; what was acknowledged is noted.
(
  for ((n = 0; ; n++)); do
    kubectl create configmap "w-$n" --from-literal=note="$hidden" > /dev/null 2>&1 && echo "w-$n" >> "$other/acknowledged"
  done
) &
load=$!

# Whoever leads then has never heard of it.
"$CARAVEL" member transfer-leadership server-3 > /dev/null
own kill server-3
eventually 20 kubectl create configmap another-leads
"$CARAVEL" certificate rotate-keys --no-wait > "$other/key"
is "$(cat "$other/key")" 'key 2'
held() { [[ $(keys 's["next"], sum(m["reached"] and m["holds"] == [1, 2] for m in members)') == '2 2' ]]; }
eventually 20 held
is "$(keys '[m["key"] for m in members if m["reached"]]')" '[1, 1]' 'used before all hold it'
if "$CARAVEL" certificate rotate-keys --no-wait 2> /dev/null; then die "two rotations at once"; fi
sick() { said=$("$CARAVEL" doctor 2>&1) && return 1; [[ $said == *'server-down'*'rotation-waits'* ]] || { echo "$said"; return 1; }; }
eventually 20 sick
ok "the new key waits for the server that is down, and the doctor says so"

own start server-3
eventually 60 all_use 3 2
for server in server-1 server-2 server-3; do
  is "$(on "$server" sh -c 'cd /etc/caravel/keys && echo $(ls) / $(ls retired)')" 'current retired store-2.key / store-1.key' "keys of $server"
done
"$CARAVEL" doctor > "$other/said" || die "$(cat "$other/said")"
on server-1 "$CARAVEL" snapshot verify "$other/old.snapshot" | grep -q '^whole: '
ok "every server uses it and needs the old one no more; a backup of before can still be read"

own stop server-3
"$CARAVEL" certificate rotate-keys --no-wait > /dev/null
eventually 30 "$CARAVEL" member remove server-3
eventually 30 all_use 2 3
on server-3 mv /var/lib/caravel/server /var/lib/caravel/server.old
on server-3 rm -rf /etc/caravel/keys
join=$("$CARAVEL" member add 2> /dev/null)
on server-3 sh -c "umask 077; echo '${join##* }' > /etc/caravel/join-token"
own start server-3
eventually 60 all_use 3 3
ok "a server that is removed holds nothing up; one that joins gets the ring"

"$CARAVEL" member transfer-leadership > /dev/null
for event in leader_changed member_removed member_joined member_promoted snapshot_saved alarm_raised alarm_cleared key_changed; do
  eventually 10 happened "$event"
done
kill "$watch" && watch=
ok "all of it was told as it happened: $(cut -d' ' -f1 "$other/events" | sort | uniq -c | xargs)"

kill "$load" && load=
for server in server-1 server-2 server-3; do
  own kill "$server"
  own start "$server"
  ready() { kubectl get --raw /readyz > /dev/null && [[ $(keys 'sum(m["reached"] for m in members)') == 3 ]]; }
  eventually 30 ready
done
count=$(wc -l < "$other/acknowledged")
((count > 20)) || die "only $count writes were acknowledged"
lost=$(comm -23 <(sort "$other/acknowledged") <(kubectl get configmaps -o name | sed 's|.*/||' | sort))
is "$lost" "" 'writes that were acknowledged and are gone'
is "$(kubectl get secret hidden -o jsonpath='{.data.password}' | base64 -d)" "$hidden"
for server in server-1 server-2 server-3; do
  for secret in "$hidden" "$(printf %s "$hidden" | base64)"; do
    if on "$server" grep -rqaF -- "$secret" /var/lib/caravel/server; then die "plain text on $server"; fi
  done
done
ok "restarted one after another: all of $count writes are there, and nothing lies on a disk in plain text"
