"""The whole way on a cluster: install, events in, swaps under load, kills, a release that a gate stops, rollback.

Deliberately absent: figures to hold it against; `test` and `prove` give them.
"""

import datetime
import json
import pathlib
import queue
import random
import subprocess
import threading

from cluster import (
    EXECUTABLE,
    FOLDER,
    HERE,
    NAMESPACE,
    NATS_IMAGE,
    REPOSITORY,
    S3_IMAGE,
    TARGET,
    Failed,
    check,
    run,
    say,
    scratch,
    skip,
    wait_until,
)

COLLECTION = "products"
RELEASE = "verdigris"
INDEXER = f"{RELEASE}-indexer"
# Seconds that a candidate bakes, and that the way back is kept warm: in life, ten minutes and an hour.
BAKE, KEEP = 2, 4
# Nothing here goes back because this machine is busy with other things; `bad` has a candidate that is slow by itself.
LATENCY_MS = 2_000
SETTINGS = {
    "embedder": {"provider": "hash", "dimension": 64},
    "rollout": {
        "promotion": "automatic", "bake_seconds": BAKE, "keep_seconds": KEEP, "deadline_seconds": 120,
        "latency_floor_ms": LATENCY_MS,
    },
    "gates": {"samples": 20, "latency_floor_ms": LATENCY_MS},
}


def has_roles():
    """Whether this executable has the roles of the platform as commands, and a controller for Kubernetes."""
    asked = (["indexer", "--help"], ["search", "--help"], ["controller", "--print-crd"])
    return all(subprocess.run([EXECUTABLE, *words], capture_output=True).returncode == 0 for words in asked)


def values(cluster, image):
    """What the chart is given beside deploy/values/inside.yaml: the images of this test, short times."""
    repository, tag = image.rsplit(":", 1)
    # Another cluster pulls the images that the chart names.
    nats, s3 = ({"image": NATS_IMAGE}, {"image": S3_IMAGE}) if cluster.own else ({}, {})
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    return {
        "image": {"repository": repository, "tag": tag},
        "controller": {"replicas": 2, "resources": small},
        "indexer": {"resources": small},
        "nats": {**nats, "resources": small},
        "s3Server": {**s3, "resources": small},
        "collections": [
            {
                "name": COLLECTION,
                "pods": {"replicas": 2, "resources": small},
                "rollout": {"promotion": "Automatic", "bakeSeconds": BAKE, "keepSeconds": KEEP, "deadlineSeconds": 120},
            }
        ],
    }


def namespace(cluster):
    cluster.make_namespace()
    cluster.kubectl(
        "create", "secret", "generic", "verdigris-store",
        "--from-literal=AWS_ACCESS_KEY_ID=tests", "--from-literal=AWS_SECRET_ACCESS_KEY=tests-secret",
    )  # fmt: skip
    volumes(cluster)


def volumes(cluster):
    """What the servers inside keep when their pods go; a cluster of others has a storage class for that."""
    if not cluster.own:
        return
    for number in range(2):
        folder = FOLDER / f"state/volumes/{number}"
        folder.mkdir(parents=True, exist_ok=True)
        # Nobody hands a folder of the node over to the user of the pod.
        folder.chmod(0o777)
        spec = {"capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(folder)}}
        cluster.apply(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{number}"}, "spec": spec}
        )


def install(cluster, image, *more):
    """Installs or upgrades the chart."""
    with scratch() as folder:
        file = pathlib.Path(folder) / "values.json"
        file.write_text(json.dumps(values(cluster, image)))
        inside = REPOSITORY / "deploy/values/inside.yaml"
        chart = REPOSITORY / "deploy/helm/verdigris"
        return cluster.helm("upgrade", "--install", RELEASE, chart, "--values", inside, "--values", file, *more)


def servers_answer(cluster):
    """NATS and the S3 server are ready: their probes ask them."""
    for server in ("nats", "s3"):
        cluster.kubectl("rollout", "status", f"statefulset/{RELEASE}-{server}", "--timeout=120s")
        say(f"ok: the {server} server inside answers its probes")


def one_pod(cluster, image):
    """All roles in one pod, as the image would be tried out: events in by gRPC through a Service, and a search."""
    labels = {"app": "alone"}
    container = {
        "name": "verdigris", "image": image, "imagePullPolicy": "IfNotPresent", "args": ["up"],
        "env": [
            {"name": "VERDIGRIS_GRPC_ADDRESS", "value": "0.0.0.0:7700"},
            {"name": "VERDIGRIS_HTTP_ADDRESS", "value": "0.0.0.0:7701"},
            {"name": "VERDIGRIS_GRPC_INSECURE", "value": "true"},
        ],
        "ports": [{"containerPort": 7700}, {"containerPort": 7701}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 7701}, "periodSeconds": 1},
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/verdigris"}, {"name": "temporary", "mountPath": "/tmp"}],
    }  # fmt: skip
    cluster.apply(
        {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone", "labels": labels},
            "spec": {
                "enableServiceLinks": False,
                "securityContext": {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "temporary", "emptyDir": {}}],
            },
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alone"}, "spec": {"selector": labels, "ports": [{"port": 7700}]}},
    )  # fmt: skip
    cluster.kubectl("wait", "--for=condition=Ready", "pod/alone", "--timeout=120s")
    server = cluster.address("alone", 7700)
    # kube-proxy hears of a ready pod a moment later than we do.
    wait_until(
        "events in", lambda: cluster.verdigris(server, "ingest", REPOSITORY / "examples/catalog.jsonl", "--wait")
    )
    answer = cluster.verdigris(server, "search", "something to drill concrete with")
    answers = any(found.get("hits") for found in answer)
    check(answers, "a pod of the image answers gRPC through a Service, with its model")
    return server


def kind(cluster):
    """The kind first, as an upgrade would; then the plain manifests against this very API server, unknown fields refused."""
    cluster.kubectl("apply", "--server-side", "-f", REPOSITORY / "deploy/helm/verdigris/crds")
    cluster.kubectl("wait", "--for=condition=Established", "crd/collections.verdigris.dev", "--timeout=30s")
    dry_run = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-k", REPOSITORY / "k8s/inside"]
    wait_until("a dry run", lambda: cluster.kubectl(*dry_run), 10)
    say("ok: the API server takes k8s/inside, strictly")


def manifests_fit(cluster):
    """What was installed against the schemas of this very server."""
    kubeconform = FOLDER / "tools/bin/kubeconform"
    if not cluster.own or not kubeconform.exists():
        return skip("kubeconform", "not here")
    with scratch() as folder:
        run(HERE / "schemas", folder)
        manifests = cluster.helm("get", "manifest", RELEASE)
        location = f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        said = cluster.call(kubeconform, "-strict", "-summary", "-schema-location", location, "-", input=manifests)
        say(f"ok: kubeconform: {said.strip().splitlines()[-1]}")


def least_privilege(cluster):
    """What the API server lets the service accounts do, and what not."""

    def may(part, verb, what, *more):
        account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-{part}"
        asked = cluster.command(
            cluster.kubectl_program, "-n", NAMESPACE, "auth", "can-i", verb, what, "--as", account, *more
        )
        return subprocess.run(asked, env=cluster.environment, capture_output=True).returncode == 0

    for verb, what in (
        ("patch", "services"),
        ("patch", "deployments"),
        ("patch", "collections/status"),
        ("update", "leases"),
    ):
        if not may("controller", verb, what):
            raise Failed(f"the controller may not {verb} {what}")
    for part, verb, what, *more in (
        ("controller", "list", "secrets"),
        ("controller", "create", "pods"),
        ("controller", "create", "pods/exec"),
        ("controller", "list", "deployments", "-n", "default"),
        ("indexer", "list", "pods"),
        ("search", "list", "pods"),
    ):
        if may(part, verb, what, *more):
            raise Failed(f"the {part} may {verb} {what} {' '.join(more)}")
    say("ok: service accounts may do what they need, and the rest is refused")


def indexer(cluster, *arguments, **options):
    """The command line against the indexer: events on one port, administration on another."""
    administration = ["--admin-server", cluster.address(INDEXER, 7702)]
    return cluster.verdigris(cluster.address(INDEXER, 7700), *administration, *arguments, **options)


class Load:
    """The load client: its lines as they come."""

    def __init__(self, cluster, keep=4, reconnect=4, pause_ms=5, server=None):
        self.changes, self.counts = [], queue.Queue()
        self.process = cluster.start(
            TARGET / "debug/examples/cluster_load", "--server", server or cluster.address(COLLECTION, 7700), "--collection", COLLECTION,
            "--keep", keep, "--reconnect", reconnect, "--pause-ms", pause_ms,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.clients = keep + reconnect
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if "lineage" in said:
                self.changes.append(said)
            else:
                self.counts.put(said)

    def so_far(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.counts.get(timeout=30)

    def calls(self, wanted, seconds):
        """Waits until so many calls were made."""
        wait_until(f"{wanted} calls", lambda: self.so_far()["calls"] >= wanted, seconds)

    def arrived(self, lineage):
        """When each client was answered by a lineage first, if all were."""
        first = {}
        for change in list(self.changes):
            if change["lineage"] == lineage:
                first.setdefault(change["client"], change["at_ms"])
        return first if len(first) == self.clients else None

    def end(self):
        self.process.stdin.close()
        ended = self.counts.get(timeout=30)
        self.process.wait(timeout=30)
        return ended


def swaps_in_place(cluster, server, swaps, calls):
    """Rebuilds in the pod that has all roles: the same guarantees, without slots."""
    with scratch() as folder:
        file = pathlib.Path(folder) / "settings.json"
        file.write_text(json.dumps({name: SETTINGS[name] for name in ("rollout", "gates")}))
        cluster.verdigris(server, "settings", "set", file)
    load = Load(cluster, server=server)

    def rollout():
        return cluster.verdigris(server, "rollout", "status")[0]

    for number in range(swaps):
        wait_until("a settled rollout", lambda: rollout()["phase"] == "steady")
        before = rollout()["active"]["lineage"]
        cluster.verdigris(server, "rebuild", "--wait", "--timeout", "60")
        lineage, _ = wait_until("a flip", lambda: (found := rollout()["active"]["lineage"]) != before and found)
        wait_until("all clients on the new lineage", lambda: load.arrived(lineage), 30)
    load.calls(calls, 300)
    judge_load(load.end(), calls, is_strict=True)
    cluster.kubectl("delete", "pod/alone", "service/alone", "--now")


def status(cluster):
    return cluster.get("collection", COLLECTION).get("status", {})


def plugin(cluster, *arguments):
    """`kubectl verdigris`: the same executable under the plugin's name."""
    with scratch() as folder:
        link = pathlib.Path(folder) / "kubectl-verdigris"
        link.symlink_to(EXECUTABLE)
        return cluster.call(link, "--namespace", NAMESPACE, *arguments)


def selected(cluster):
    """The target that the active Service selects: the fact for traffic."""
    return cluster.get("service", COLLECTION)["spec"]["selector"].get("verdigris.dev/target")


def flipped_at_ms(cluster):
    """Since when the active Service selects what it selects, as its writer noted; this machine's clock is the node's."""
    since = cluster.get("service", COLLECTION)["metadata"]["annotations"]["verdigris.dev/since"]
    return datetime.datetime.fromisoformat(since[:23].rstrip("Z") + "+00:00").timestamp() * 1000


def is_settled(cluster):
    """Nothing is under way: another rebuild may begin."""
    return status(cluster).get("phase") == "Steady"


def begin(cluster):
    """A collection with the examples in it, and pods that answer."""
    cluster.kubectl("rollout", "status", f"deployment/{INDEXER}", "--timeout=180s")
    with scratch() as folder:
        file = pathlib.Path(folder) / "settings.json"
        file.write_text(json.dumps(SETTINGS))
        wait_until("a collection", lambda: indexer(cluster, "collections", "create", COLLECTION, "--settings", file))
    wait_until("events in", lambda: indexer(cluster, "ingest", REPOSITORY / "examples/catalog.jsonl", "--wait"))
    cluster.kubectl("wait", "--for=condition=Available", f"collection/{COLLECTION}", "--timeout=180s")
    _, seconds = wait_until(
        "an answer", lambda: cluster.verdigris(cluster.address(COLLECTION, 7700), "search", "drill")
    )
    say(f"ok: events in, an answer out through the Service {seconds:.1f} s after the Collection was available")


def swap(cluster, load, number, meanwhile=lambda: None):
    """One rebuild that becomes active; milliseconds from the flip until each client was answered by it."""
    wait_until("a settled rollout", lambda: is_settled(cluster))
    before, target = status(cluster)["lineage"], selected(cluster)
    rebuild = ["rebuild", "--reason", f"swap {number}", "--wait", "--timeout", "120"]
    indexer(cluster, *rebuild)
    meanwhile()
    wait_until(f"flip {number}", lambda: selected(cluster) not in (target, "none", None), 180)
    flipped_ms = flipped_at_ms(cluster)
    lineage, _ = wait_until(
        "the new lineage in status", lambda: (found := status(cluster).get("lineage")) != before and found
    )
    first, _ = wait_until(f"all clients on {lineage}", lambda: load.arrived(lineage), 30)
    times = sorted(max(0, at - flipped_ms) for at in first.values())
    say(
        f"swap {number}: {before} -> {lineage}, clients after {times[len(times) // 2]:.0f} ms (median), {times[-1]:.0f} ms (last)"
    )
    return times


def swap_in_steps(cluster, load, number):
    """A rebuild that gets half of the traffic before it gets all of it."""

    def steps(shares):
        patch = json.dumps({"spec": {"rollout": {"steps": shares}}})
        cluster.kubectl("patch", "collection", COLLECTION, "--type=merge", "--patch", patch)

    def both():
        step = status(cluster).get("step", {})
        wide = len({pod["role"] for pod in status(cluster)["slots"] if pod["ready"]}) == 2
        return step.get("percent") == 50 and wide and selected(cluster) is None

    steps([50])
    swap(cluster, load, number, lambda: wait_until("both slots answer", both, 180))
    check("step" not in status(cluster), "the last step is over")
    steps([])


def judge_load(counted, calls_min, is_strict):
    """No failed call, no mixed answer; strict: not even one that the standard retry policy mends."""
    say(json.dumps({name: counted[name] for name in ("calls", "failed_first", "failed", "mixed", "p50_ms", "p99_ms")}))
    told = json.dumps(counted["told"])
    if counted["failed"] or counted["mixed"] or (is_strict and counted["failed_first"]):
        raise Failed(f"failed calls, or mixed answers: {told}")
    check(counted["calls"] >= calls_min, f"{counted['calls']} calls, at least {calls_min}, none failed")


def patches(cluster, numbers):
    """Changes that must be in the answers afterwards, by field. One that is sent twice is no other than one sent once."""
    changed = {}
    for number in numbers:
        patch = ["patch", "KT-745/B", json.dumps({f"mark_{number}": number})]
        wait_until("a patch that is accepted", lambda: indexer(cluster, *patch))
        changed[f"mark_{number}"] = number
    return changed


def nothing_is_lost(cluster, changed):
    def look():
        found = cluster.verdigris(cluster.address(COLLECTION, 7700), "get", "KT-745/B")[0]
        fields = found.get("document", found)
        missing = [name for name, value in changed.items() if fields.get(name) != value]
        if missing:
            raise Failed(f"missing: {missing[:5]}")
        return True

    wait_until("all changes in the answers", look)
    say(f"ok: all {len(changed)} changes that were accepted are in the answers")


def kill_role(cluster, role):
    """Kills a pod of a role without notice; of the controllers the one that leads, of the search pods one that answers."""
    if role == "controller":
        name = cluster.get("lease", f"{RELEASE}-controller")["spec"]["holderIdentity"]
    else:
        labels = f"app.kubernetes.io/component={role}"
        if role == "search":
            labels = status(cluster)["selector"]
        pods = [pod for pod in cluster.pods(labels) if not pod["metadata"].get("deletionTimestamp")]
        name = random.choice(pods)["metadata"]["name"]
    cluster.kill(name)
    say(f"killed {name}")


def all_ready(cluster):
    def look():
        for deployment in cluster.get("deployments")["items"]:
            wanted, found = deployment["spec"]["replicas"], deployment.get("status", {})
            if (
                wanted != found.get("readyReplicas", 0)
                or found.get("observedGeneration") != deployment["metadata"]["generation"]
            ):
                return False
        return True

    _, seconds = wait_until("all deployments ready", look, 180)
    say(f"ok: everything is ready again after {seconds:.1f} s")


def scale(cluster):
    """By the Collection's scale subresource, which is what an autoscaler writes; there is no metrics server to drive one."""
    for replicas in (3, 2):
        cluster.kubectl("scale", f"collection/{COLLECTION}", f"--replicas={replicas}")
        wait_until(f"{replicas} pods", lambda: status(cluster).get("replicas") == replicas)
    say("ok: kubectl scale on the Collection has more pods, and fewer")


def autoscaler_finds_its_target(cluster):
    def look():
        found = cluster.get("horizontalpodautoscaler", COLLECTION).get("status", {}).get("conditions", [])
        return any(one["type"] == "AbleToScale" and one["status"] == "True" for one in found)

    wait_until("an autoscaler that is able to scale", look)
    say("ok: the autoscaler reads the Collection's scale")


def bad_release(cluster):
    """A candidate whose texts are empty stops at its gate, says so, and traffic stays."""
    wait_until("a settled rollout", lambda: is_settled(cluster))
    target = selected(cluster)
    bad = {
        **SETTINGS,
        "text": {"embed": [{"fields": ["nothing"]}], "words": ["nothing"], "codes": [], "returned_only": []},
    }
    with scratch() as folder:
        file = pathlib.Path(folder) / "settings.json"
        file.write_text(json.dumps(bad))
        indexer(cluster, "rebuild", "--settings", file, "--reason", "a bad release", "--wait", "--timeout", "120")
    refused, _ = wait_until("a refusal", lambda: (found := status(cluster)).get("phase") == "Refused" and found)
    against = refused.get("verdict", {}).get("against", [])
    check(against, f"a bad release stops at its gates, which say why in status: {'; '.join(against)[:200]}")
    check(selected(cluster) == target, "traffic stays where it was")
    plugin(cluster, "abort", COLLECTION)
    wait_until("a settled rollout", lambda: is_settled(cluster))
    say("ok: the candidate is given up by word")


def upgrade(cluster, image):
    """Another version of the software: all roles get it, search pods by way of the other slot, without one failed call."""
    if not cluster.own:
        skip("an upgrade", "needs a second image on a cluster of others")
        return image
    wait_until("a settled rollout", lambda: is_settled(cluster))
    target, newer = selected(cluster), f"{image}-next"
    run(HERE / "in", "ctr", "-n", "k8s.io", "images", "tag", image, newer)
    load = Load(cluster)
    install(cluster, newer)
    _, seconds = wait_until(
        "traffic on the new image", lambda: selected(cluster) not in (target, "none", None) and is_settled(cluster), 180
    )
    search = f"verdigris.dev/collection={COLLECTION}"
    image_of = lambda pod: pod["spec"]["containers"][0]["image"]
    wait_until("no pod of the old image", lambda: {image_of(pod) for pod in cluster.pods(search)} == {newer})
    all_ready(cluster)
    judge_load(load.end(), 1, is_strict=True)
    say(f"ok: an upgrade moves traffic by way of the other slot; settled after {seconds:.0f} s")
    return newer


def upgrade_and_uninstall(cluster, image):
    """A change of the chart's values that leaves image and pods alone moves nothing; uninstalling leaves the kind."""
    target = selected(cluster)
    install(
        cluster, image, "--set", "collections[0].autoscaling.enabled=true", "--set", "collections[0].autoscaling.max=4"
    )
    all_ready(cluster)
    check(selected(cluster) == target, "an upgrade that leaves image and pods alone is no rollout")
    autoscaler_finds_its_target(cluster)
    cluster.kubectl("delete", "collections", "--all", "--timeout=60s")
    wait_until("no search pod", lambda: not cluster.pods("verdigris.dev/collection"))
    say("ok: a deleted Collection takes its pods with it")
    cluster.helm("uninstall", RELEASE, "--wait")
    check(
        cluster.call(cluster.kubectl_program, "get", "crd", "collections.verdigris.dev"), "uninstalling leaves the kind"
    )
