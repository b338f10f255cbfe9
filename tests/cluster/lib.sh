# Sourced by the scripts of this folder: where the test cluster lives and what its parts are called.
#
# CLUSTER_FOLDER  working folder; .cache/cluster by default. It may not lie under /var/lib, /var/log or /run.
# CLUSTER_NAME    name of its network namespace, cgroup and node, so that several can run at once.

die() { echo "${0##*/}: $*" >&2; exit 1; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=${VERDIGRIS_CACHE:-$repository/.cache}
mkdir -p "${CLUSTER_FOLDER:=$cache/cluster}"
FOLDER=$(realpath "$CLUSTER_FOLDER")
export CLUSTER_FOLDER=$FOLDER
BIN=$FOLDER/bin RUN=$FOLDER/run LOG=$FOLDER/log IMAGES=$FOLDER/images
NAME=${CLUSTER_NAME:-verdigris-test}
# The benchmark range of RFC 2544, so that not even a mistake could reach a private network; the namespace has no way
# out in any case.
NODE_IP=198.18.0.1 LOCAL_CIDR=198.18.0.0/16 POD_CIDR=198.18.64.0/18
SERVICE_CIDR=198.19.0.0/16
API_SERVICE_IP=198.19.0.1 DNS_IP=198.19.0.10
PAUSE_IMAGE=verdigris.test/pause:1

# The node's PID 1 (its number outside), if it still is the one that was recorded.
node_pid() {
  local pid start
  [ -f "$RUN/pid1" ] && read -r pid start _ <"$RUN/pid1" || return 1
  [ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ] && echo "$pid"
}

start_time() { # pid -> its start time in ticks, or nothing
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  set -- ${stat##*) }
  [ "$1" != Z ] && echo "${20}"
}

enter() { # runs a command inside all of the node's namespaces
  local pid
  pid=$(node_pid) || die "no cluster is up in $FOLDER"
  nsenter --target "$pid" --net --mount --uts --ipc --pid -- "$@"
}

# kubectl in the network of the node, with the files of this side.
kubectl_outside() { nsenter --net="/run/netns/$NAME" "$BIN/kubectl" --kubeconfig "$RUN/admin.kubeconfig" "$@"; }

elapsed() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }'; }
