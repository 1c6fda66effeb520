#!/usr/bin/python3
"""Configures MarchProxy from Python, from the proto files alone: adds a rule that has to be confirmed, confirms it, and follows versions.

Debian 12: apt-get install python3-grpcio python3-protobuf protobuf-compiler protobuf-compiler-grpc libprotobuf-dev

    configure.py --proto /path/to/marchproxy/proto --control HOST:18000 --ca ca.pem --cert operator.pem --key operator.key
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import grpc

FILES = ["document", "config"]


def load(proto):
    """Makes Python modules of the contract; a program that is built would do this once."""
    files = [str(Path(proto) / "marchproxy" / "v1" / f"{name}.proto") for name in FILES]
    plugin = "protoc-gen-grpc=/usr/bin/grpc_python_plugin"
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            ["protoc", f"--proto_path={proto}", f"--python_out={out}", f"--plugin={plugin}", f"--grpc_out={out}", *files], check=True
        )
        sys.path.insert(0, out)
        modules = ["document_pb2", "config_pb2", "config_pb2_grpc"]
        return [importlib.import_module(f"marchproxy.v1.{module}") for module in modules]


def connect(args):
    if not args.ca:
        return grpc.insecure_channel(args.control)
    read = lambda path: Path(path).read_bytes()
    credentials = grpc.ssl_channel_credentials(read(args.ca), read(args.key), read(args.cert))
    return grpc.secure_channel(args.control, credentials)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proto", required=True)
    parser.add_argument("--control", default="localhost:18000")
    parser.add_argument("--ca", help="without it: a control with --insecure")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    args = parser.parse_args()
    document, config, config_grpc = load(args.proto)

    with connect(args) as channel:
        service = config_grpc.ConfigServiceStub(channel)
        newest = service.Get(config.GetRequest())
        print(f"version {newest.version} has {len(newest.document.rules)} rules")

        # One change, not the whole document. The id makes a repetition safe: it answers with what the first call led to.
        rule = document.Rule(name="from-python", priority=150, action="deny")
        rule.match.protocol = "tcp"
        rule.match.dst_ports.append("2323")
        header = config.ApplyHeader(
            message="from Python", request_id=str(uuid.uuid4()), expected_version=newest.version, confirm_within_s=60
        )
        changes = config.Changes(upsert=document.Document(rules=[rule]))
        chunk = config.ApplyChunk(header=header, changes=changes)
        applied = service.Apply(iter([chunk]))
        again = service.Apply(iter([chunk]))
        print(f"applied version {applied.version}, again {again.version}")
        for node in applied.nodes:
            print(f"node {node.node}: {config.NodeOutcome.Name(node.outcome)} {node.reason}")
        confirmed = service.Confirm(config.ConfirmRequest(version=applied.version))
        print(f"confirmed version {confirmed.version}")

        # A watcher that comes back with the token of the last event it saw misses none.
        events = service.Watch(config.WatchRequest(resume_token=f"default/{newest.version}"))
        event = next(events)
        print(f"watched version {event.version.version} by {event.version.author}: {event.version.message}")
        events.cancel()

        # What is refused is refused with the field's path.
        rule.action = "perhaps"
        header.request_id = str(uuid.uuid4())
        header.expected_version = applied.version
        try:
            service.Apply(iter([config.ApplyChunk(header=header, changes=config.Changes(upsert=document.Document(rules=[rule])))]))
        except grpc.RpcError as error:
            print(f"refused: {error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
