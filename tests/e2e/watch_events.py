"""Prints events of a cluster as one server tells them, a line each. Reads a kubeconfig (JSON) on stdin; argument: the URL of
the server. Knows nothing of Caravel but the name of the call: the rest is learned by reflection."""
import base64
import json
import sys

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

config = json.load(sys.stdin)
ca, cert, key = (base64.b64decode(part) for part in (
    config["clusters"][0]["cluster"]["certificate-authority-data"],
    config["users"][0]["user"]["client-certificate-data"], config["users"][0]["user"]["client-key-data"]))
channel = grpc.secure_channel(sys.argv[1].removeprefix("https://"), grpc.ssl_channel_credentials(ca, key, cert))
pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
method = pool.FindServiceByName("caravel.cluster.v1.Cluster").FindMethodByName("WatchEvents")
request, answer = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
call = channel.unary_stream("/caravel.cluster.v1.Cluster/WatchEvents", request.SerializeToString, answer.FromString)
for event in call(request()):
    kind = event.WhichOneof("event")
    print(kind, json_format.MessageToJson(getattr(event, kind), indent=None), flush=True)
