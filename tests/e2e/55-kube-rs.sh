#!/usr/bin/env bash
# kube-rs, unmodified, lists, watches and patches.
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
has "$(cargo run -q --locked -p caravel-test-conformance --bin kube-rs-client -- "$NS")" 'kube-rs lists'
ok 'kube-rs lists, watches, patches, applies and deletes'
