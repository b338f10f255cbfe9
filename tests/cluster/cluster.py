"""The cluster that a test runs on: the one-node cluster of this folder, or the one that KUBECONFIG names.

Programs run on this machine, in the network of the node: so they are outside clients, by the Services' own addresses. With
KUBECONFIG set, those addresses must be reachable from here (on a node of k3s or kind they are), and VERDIGRIS_IMAGE names an
image that the cluster can pull.
Deliberately absent: what is tested.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("VERDIGRIS_CACHE", REPOSITORY / ".cache"))
FOLDER = pathlib.Path(os.environ.get("CLUSTER_FOLDER", CACHE / "cluster"))
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
EXECUTABLE = TARGET / "debug/verdigris"
NAMESPACE = "verdigris"
NATS_IMAGE, S3_IMAGE = "verdigris.test/nats:2.15.1", "verdigris.test/versitygw:1.8.0"

began = time.monotonic()


def part(name):
    """Says what comes, and when."""
    print(f"== {name} (after {time.monotonic() - began:.0f} s)", flush=True)


def say(text):
    print(f"   {text}", flush=True)


class Failed(Exception):
    """What must hold does not."""


def check(holds, what):
    if not holds:
        raise Failed(what)
    say(f"ok: {what}")


def skip(what, why):
    print(f"skipped: {what}: {why}", flush=True)


def wait_until(what, look, seconds=120):
    """Looks until there is something; the answer, and the seconds that it took."""
    start = time.monotonic()
    last = None
    while time.monotonic() - start < seconds:
        try:
            if found := look():
                return found, time.monotonic() - start
        except (Failed, OSError, ValueError, LookupError) as error:
            last = error
        time.sleep(0.2)
    raise Failed(f"{what}: not within {seconds} s{f' ({str(last).strip()[-400:]})' if last else ''}")


class Cluster:
    """One that is up."""

    def __init__(self):
        self.own = "KUBECONFIG" not in os.environ
        self.has_namespace = False
        self.name = os.environ.get("CLUSTER_NAME", "verdigris-test")
        self.prefix = []
        self.environment = dict(os.environ)
        self.kubectl_program = "kubectl"
        if self.own:
            self.prefix = ["nsenter", f"--net=/run/netns/{self.name}"]
            self.environment["KUBECONFIG"] = str(FOLDER / "run/admin.kubeconfig")
            self.kubectl_program = str(FOLDER / "bin/kubectl")
        # The client's own defaults, and no server or token of whoever runs this.
        for variable in [name for name in self.environment if name.startswith("VERDIGRIS_")]:
            del self.environment[variable]

    def lacks(self):
        """What is not here and cannot be done without."""
        if not self.own:
            return []
        programs = [FOLDER / "bin/test-node", FOLDER / "tools/bin/helm", FOLDER / "tools/bin/versitygw"]
        programs += [CACHE / "servers/nats/bin/nats-server", TARGET / "debug/examples/cluster_load"]
        missing = [program.name for program in programs if not os.access(program, os.X_OK)]
        return missing + ([] if os.getuid() == 0 else ["root"])

    def up(self):
        """Starts it, with the images that the chart wants inside."""
        if not self.own:
            return os.environ.get("VERDIGRIS_IMAGE") or sys.exit(
                "with KUBECONFIG, VERDIGRIS_IMAGE names an image to pull"
            )
        run(HERE / "up")
        run(HERE / "pack", NATS_IMAGE, CACHE / "servers/nats/bin/nats-server")
        run(HERE / "pack", S3_IMAGE, FOLDER / "tools/bin/versitygw")
        return self.load_image(TARGET / "image/verdigris.tar")

    def load_image(self, tar):
        """Imports an image; its name."""
        run(HERE / "in", "ctr", "-n", "k8s.io", "images", "import", tar)
        import tarfile

        return json.load(tarfile.open(tar).extractfile("manifest.json"))[0]["RepoTags"][0]

    def make_namespace(self):
        """Refuses one that is there already: on a cluster of others it would be theirs."""
        self.call(self.kubectl_program, "create", "namespace", NAMESPACE)
        self.has_namespace = True

    def down(self):
        if self.own:
            run(HERE / "down")
        elif self.has_namespace:
            # Collections first, while their controller is there.
            self.kubectl("delete", "collections", "--all", "--ignore-not-found", "--timeout=60s")
            self.call(self.kubectl_program, "delete", "namespace", NAMESPACE, "--timeout=120s")

    def command(self, *arguments):
        return [*self.prefix, *map(str, arguments)]

    def call(self, *arguments, **options):
        """Runs a program of this machine in the node's network; its output."""
        said = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True, **options)
        if said.returncode:
            what = " ".join(str(part) for part in arguments)
            raise Failed(f"{what}: {(said.stderr.strip() or said.stdout.strip())[-1000:]}")
        return said.stdout

    def start(self, *arguments, **options):
        return subprocess.Popen(self.command(*arguments), env=self.environment, text=True, **options)

    def kubectl(self, *arguments, **options):
        return self.call(self.kubectl_program, "--namespace", NAMESPACE, *arguments, **options)

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects):
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "-f", "-", input=items)

    def helm(self, *arguments):
        return self.call(FOLDER / "tools/bin/helm" if self.own else "helm", "--namespace", NAMESPACE, *arguments)

    def address(self, service, port):
        """URL of a port of a Service, by its address in the cluster."""
        return f"http://{self.get('service', service)['spec']['clusterIP']}:{port}"

    def verdigris(self, server, *arguments, **options):
        """The command line as an outside client; what it says as JSON."""
        said = self.call(EXECUTABLE, "--json", "--server", server, *arguments, **options)
        values, decoder, at = [], json.JSONDecoder(), said.find("{")
        while at >= 0:
            value, end = decoder.raw_decode(said, at)
            values.append(value)
            at = said.find("{", end)
        return values

    def pods(self, labels):
        return self.get("pods", "-l", labels)["items"]

    def kill(self, pod):
        """Without notice, and the pod goes as with a node that died: one that is started again waits longer each time."""
        self.kill_in_place(pod)
        self.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")

    def kill_in_place(self, pod):
        """SIGKILL to its process; returns when the node knows. On a cluster of others this is left to `kill`."""
        if not self.own:
            return
        identity = lambda: self.get("pod", pod)["status"]["containerStatuses"][0]["containerID"]
        is_running = lambda: "running" in self.get("pod", pod)["status"]["containerStatuses"][0]["state"]
        before = identity()
        run(HERE / "in", "ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", before.split("//")[1])
        wait_until("a dead process", lambda: identity() != before or not is_running(), 30)

    def tell_state(self):
        """What an engineer would look at after a failure."""
        for arguments in (
            ["get", "pods,services,collections", "-o", "wide"],
            ["get", "events", "--sort-by=.lastTimestamp"],
        ):
            said = subprocess.run(
                self.command(self.kubectl_program, "--namespace", NAMESPACE, *arguments),
                env=self.environment,
                capture_output=True,
                text=True,
            )
            print("\n".join((said.stdout + said.stderr).splitlines()[-40:]), flush=True)
        try:
            pods = self.get("pods")["items"]
        except Failed:
            return
        for pod in pods:
            name = pod["metadata"]["name"]
            for more in ([], ["--previous"]):
                said = subprocess.run(
                    self.command(self.kubectl_program, "--namespace", NAMESPACE, "logs", name, "--tail=15", *more),
                    env=self.environment,
                    capture_output=True,
                    text=True,
                )
                if said.stdout.strip():
                    print(f"-- {name} {' '.join(more)}\n{said.stdout}", flush=True)


def run(*arguments):
    """Runs one of our scripts; it says itself what it does."""
    subprocess.run([str(argument) for argument in arguments], check=True)


def scratch():
    return tempfile.TemporaryDirectory(prefix="verdigris-cluster-")
