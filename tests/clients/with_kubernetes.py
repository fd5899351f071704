"""Works with the API by the Python client: lists, a watch, read-modify-write, a patch. Prints what it sees, a line of JSON for each."""

import json
import sys
import time

from kubernetes import client, config, watch

kubeconfig, namespace = sys.argv[1:]
config.load_kube_config(kubeconfig)
core, apps = client.CoreV1Api(), client.AppsV1Api()


def say(what, value):
    print(json.dumps({"what": what, "value": value}, sort_keys=True))


for secret in sorted(core.list_namespaced_secret(namespace).items, key=lambda item: item.metadata.name):
    say("secret " + secret.metadata.name, secret.data)
web = apps.read_namespaced_deployment("web", namespace)
say("environment", [variable.to_dict() for variable in web.spec.template.spec.containers[0].env])

stamp = str(time.time_ns())
secret = core.read_namespaced_secret("db", namespace)
secret.metadata.labels = {"stamp": stamp}
say("replaced", core.replace_namespaced_secret("db", namespace, secret).data)
patched = core.patch_namespaced_config_map("settings", namespace, {"data": {"mode": "slow"}})
say("patched", patched.data)
patched = core.patch_namespaced_config_map("settings", namespace, {"data": {"mode": "fast"}})
say("patched back", patched.data)

watching = watch.Watch()
for event in watching.stream(core.list_namespaced_secret, namespace, timeout_seconds=30):
    found = event["object"]
    if found.metadata.name == "db" and (found.metadata.labels or {}).get("stamp") == stamp:
        say("watched", found.data)
        watching.stop()
