"""The gRPC services of a server, used by Google's own client that knows nothing of Caravel: what it knows it learns by
reflection. Reads a kubeconfig (JSON) on stdin; arguments: a namespace, the token of a service account without rights in
it, and the command that saves a snapshot."""
import base64
import json
import subprocess
import sys

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

NAMESPACE, TOKEN, SAVE = sys.argv[1], sys.argv[2], sys.argv[3:]
config = json.load(sys.stdin)
cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
target = cluster["server"].removeprefix("https://")
ca, cert, key = (base64.b64decode(part) for part in (
    cluster["certificate-authority-data"], user["client-certificate-data"], user["client-key-data"]))
admin = grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert))
nobody = grpc.secure_channel(target, grpc.ssl_channel_credentials(ca))
weak = grpc.secure_channel(target, grpc.composite_channel_credentials(
    grpc.ssl_channel_credentials(ca), grpc.access_token_call_credentials(TOKEN)))

known = ProtoReflectionDescriptorDatabase(admin)
pool = DescriptorPool(known)
CLUSTER, OBJECTS, HEALTH = "caravel.cluster.v1.Cluster", "caravel.cluster.v1.Objects", "grpc.health.v1.Health"


def call(channel, service, method, metadata=(), /, **fields):
    """Calls a method by its name, with a request made of plain values."""
    described = pool.FindServiceByName(service).FindMethodByName(method)
    request = json_format.ParseDict(fields, message_factory.GetMessageClass(described.input_type)())
    answer = message_factory.GetMessageClass(described.output_type)
    kind = channel.unary_stream if described.server_streaming else channel.unary_unary
    ask = kind(f"/{service}/{method}", type(request).SerializeToString, answer.FromString)
    return ask(request, metadata=metadata, timeout=30)


def refused(code, /, *args, **fields):
    try:
        answer = call(*args, **fields)
        answer = list(answer) if hasattr(answer, "__next__") else answer
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error.details()
    raise AssertionError(f"not refused: {args} {answer}")


services = set(known.get_services())
assert {CLUSTER, OBJECTS, HEALTH, "caravel.cluster.v1.Join"} <= services, services
assert not any("peer" in service for service in services), services
print("ok   discovered by reflection:", ", ".join(sorted(services)))

for service in ("", CLUSTER, OBJECTS):
    for channel in (admin, nobody):
        assert call(channel, HEALTH, "Check", service=service).status == 1, service
refused(grpc.StatusCode.NOT_FOUND, nobody, HEALTH, "Check", service="no.such.Service")
assert next(iter(call(nobody, HEALTH, "Watch", service=CLUSTER))).status == 1
print("ok   the standard health service says SERVING, to anybody")

members = call(admin, CLUSTER, "Members")
assert members.leader and any(member.role == 3 for member in members.members), members
health = call(admin, CLUSTER, "Health")
assert health.quorum >= 1 and health.flush.count > 0 and health.flush.p99_seconds > 0, health
assert any(replica.HasField("lag") for replica in health.replicas), health
print(f"ok   {len(members.members)} member(s), leader {members.leader}, p99 of a flush {health.flush.p99_seconds * 1000:.0f} ms")

made = call(admin, CLUSTER, "CreateJoinToken", role="SERVER", ttlSeconds=600, description="by a tool")
assert made.token.startswith("K10") and made.id in made.token, made
listed = {token.id: token for token in call(admin, CLUSTER, "ListJoinTokens").tokens}
assert (listed[made.id].role, listed[made.id].description) == (2, "by a tool"), listed
secret = made.token.rsplit(":", 1)[1]
assert secret not in str(listed), "a token's secret is told"
call(admin, CLUSTER, "DeleteJoinToken", id=made.id)
refused(grpc.StatusCode.NOT_FOUND, admin, CLUSTER, "DeleteJoinToken", id=made.id)
refused(grpc.StatusCode.INVALID_ARGUMENT, admin, CLUSTER, "CreateJoinToken", role="ANY")
print("ok   a join token: made, listed without its secret, revoked")

maps = {"version": "v1", "resource": "configmaps"}
wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "by-grpc"}, "data": {"a": "1"}}


def apply(channel, metadata=(), **more):
    return call(channel, OBJECTS, "ApplyObject", metadata, resource=maps, namespace=NAMESPACE, name="by-grpc",
                object=base64.b64encode(json.dumps(wanted).encode()).decode(), **more)


dry = json.loads(apply(admin, fieldManager="tool", dryRun=True).object)
assert dry["data"] == {"a": "1"}, dry
gone = refused(grpc.StatusCode.NOT_FOUND, admin, OBJECTS, "GetObject", resource=maps, namespace=NAMESPACE, name="by-grpc")
assert gone == 'configmaps "by-grpc" not found', gone
made = json.loads(apply(admin, fieldManager="tool").object)
assert made["metadata"]["managedFields"][0]["manager"] == "tool", made
got = json.loads(call(admin, OBJECTS, "GetObject", resource=maps, namespace=NAMESPACE, name="by-grpc").object)
assert got["metadata"]["uid"] == made["metadata"]["uid"], got
listed = call(admin, OBJECTS, "ListObjects", resource=maps, namespace=NAMESPACE, fieldSelector="metadata.name=by-grpc")
assert [json.loads(one)["metadata"]["name"] for one in listed.objects] == ["by-grpc"] and listed.kind == "ConfigMapList"
page = call(admin, OBJECTS, "ListObjects", resource=maps, limit=1)
assert len(page.objects) == 1 and getattr(page, "continue"), page
watch = call(admin, OBJECTS, "WatchObjects", resource=maps, namespace=NAMESPACE, resourceVersion=listed.resource_version)
wanted["data"]["a"] = "2"
apply(admin, fieldManager="tool")
change = next(iter(watch))
assert change.type == "MODIFIED" and json.loads(change.object)["data"] == {"a": "2"}, change
watch.cancel()
wanted["data"]["a"] = "3"
conflict = ""
try:
    apply(admin, fieldManager="another")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.ABORTED, error
    conflict = error.details()
assert "conflict" in conflict, conflict
json.loads(apply(admin, fieldManager="another", force=True).object)
print("ok   objects: apply (dry run, conflict, force), get, list in pages, watch")

path = {"resource": maps, "namespace": NAMESPACE, "name": "by-grpc"}
for channel in (nobody, weak):
    refused(grpc.StatusCode.PERMISSION_DENIED, channel, CLUSTER, "Members")
    said = refused(grpc.StatusCode.PERMISSION_DENIED, channel, OBJECTS, "GetObject", **path)
    assert 'cannot get resource "configmaps"' in said, said
    refused(grpc.StatusCode.PERMISSION_DENIED, channel, CLUSTER, "WatchEvents")
    refused(grpc.StatusCode.PERMISSION_DENIED, channel, CLUSTER, "CreateJoinToken", role="NODE")
    refused(grpc.StatusCode.PERMISSION_DENIED, channel, CLUSTER, "RotateKeys")
    try:
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        raise AssertionError(services)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
liar = grpc.secure_channel(target, grpc.composite_channel_credentials(
    grpc.ssl_channel_credentials(ca), grpc.access_token_call_credentials("no.such.token")))
refused(grpc.StatusCode.UNAUTHENTICATED, liar, CLUSTER, "Members")
refused(grpc.StatusCode.UNAUTHENTICATED, liar, OBJECTS, "GetObject", **path)
as_jane = (("impersonate-user", "jane"),)
said = refused(grpc.StatusCode.PERMISSION_DENIED, admin, OBJECTS, "GetObject", as_jane, **path)
assert 'User "jane" cannot get' in said, said
for bad in ("../secrets", "a?dryRun=All", ""):
    refused(grpc.StatusCode.INVALID_ARGUMENT, admin, OBJECTS, "GetObject", resource=maps, namespace=NAMESPACE, name=bad)
print("ok   nobody, a weak token, a false token and an impersonated user are refused; so are false paths")

subprocess.run(["kubectl", "-n", NAMESPACE, "create", "rolebinding", "see", "--clusterrole=view",
                f"--serviceaccount={NAMESPACE}:default"], check=True, stdout=subprocess.DEVNULL)
json.loads(call(weak, OBJECTS, "GetObject", **path).object)
try:
    apply(weak, fieldManager="weak", force=True)
    raise AssertionError("it may only look")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
print("ok   RBAC of the objects decides, as over HTTP")

events = call(admin, CLUSTER, "WatchEvents")
began = next(events)
assert began.WhichOneof("event") == "began" and began.began.leader == members.leader, began
subprocess.run(SAVE, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
saved = next(event for event in events if event.WhichOneof("event") == "snapshot_saved").snapshot_saved
assert saved.revision > 0 and saved.member == health.id, saved
events.cancel()
assert call(admin, CLUSTER, "Health").last_snapshot.revision == saved.revision
print(f"ok   an event of the cluster: a snapshot of revision {saved.revision} was saved")
