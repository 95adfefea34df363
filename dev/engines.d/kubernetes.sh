# Kubernetes for dev/engines: the cluster of KUBECONFIG if it answers, else kind, k3d or minikube, else one node made of Go modules.
# shellcheck shell=bash

KUBE_STATE=$STATE/kubernetes
KUBE_BIN=$CACHE/kubernetes/bin
KUBE_CONFIG=$KUBE_STATE/admin.kubeconfig
KUBE_NAME=customjob-$INSTANCE
# Only what was exported is used: the user's default cluster may be one that matters.
KUBE_GIVEN=${KUBECONFIG:-}
[[ $INSTANCE == 0 ]] || KUBE_GIVEN=
# shellcheck source=dev/kubernetes/node.sh
source "$here/kubernetes/node.sh"

kube_ctl() { # kubeconfig arguments...
  local program=$KUBE_BIN/kubectl
  [[ -x $program ]] || program=kubectl
  "$program" --kubeconfig "$1" --request-timeout=10s "${@:2}"
}

kube_answers() { [[ -n $1 && -s $1 ]] && kube_ctl "$1" get --raw /readyz >/dev/null 2>&1; }

kube_config() { # the configuration of the cluster that answers
  local config
  for config in "$KUBE_GIVEN" "$KUBE_CONFIG"; do
    kube_answers "$config" && { echo "$config"; return; }
  done
  return 1
}

kubernetes_why() {
  kube_config >/dev/null && return
  local asked=${KUBE_GIVEN:-${KUBE_CONFIG/#$HOME/\~}}
  echo "kubernetes: no cluster answers by $asked (dev/engines up kubernetes starts one where it may)"
  return 1
}

kubernetes_env() {
  local config
  config=$(kube_config) || return 0
  echo "export KUBECONFIG=$config"
  if [[ $config == "$KUBE_CONFIG" ]] && grep -qs "$NODE_REGISTRY" "$KUBE_STATE/containerd.toml"; then
    # Where its nodes and Pods reach a registry that a test brings up, and the root file system of their image.
    echo "export CUSTOMJOB_TEST_REGISTRY=$NODE_REGISTRY CUSTOMJOB_TEST_ROOT=$(cat "$NODE_DATA/.python")"
  fi
  command -v kubectl >/dev/null || printf 'export PATH=%q\n' "$KUBE_BIN:$PATH"
}

kube_tool() { # the first of the known tools that is installed and can be used
  local tool
  docker_answers || return 1
  for tool in kind k3d minikube; do command -v "$tool" >/dev/null && { echo "$tool"; return; }; done
  return 1
}

kubernetes_up() {
  local tool
  mkdir -p "$KUBE_STATE" "$KUBE_BIN"
  if kube_answers "$KUBE_GIVEN"; then
    say "kubernetes at $KUBE_GIVEN (its image ${CUSTOMJOB_TEST_IMAGE:-$IMAGE} must be there already)"
    return
  elif tool=$(kube_tool); then
    docker_image
    "kube_up_$tool"
    echo "$tool" >"$KUBE_STATE/tool"
  elif is_root_debian; then
    node_build
    node_up
  else
    die "no Kubernetes answers; install kind, k3d or minikube beside a Docker, or export KUBECONFIG (only root on Debian may build one)"
  fi
  wait_until 120 kube_ctl "$KUBE_CONFIG" get serviceaccount default >/dev/null 2>&1 ||
    die "the cluster answers and has no default service account after 120 s"
  say "kubernetes $(kube_ctl "$KUBE_CONFIG" version -o json | sed -n '/serverVersion/,/}/s/.*"gitVersion": "\(.*\)".*/\1/p') at $KUBE_CONFIG, image $IMAGE"
}

kube_up_kind() {
  kind get clusters 2>/dev/null | grep -qx "$KUBE_NAME" || kind create cluster --quiet --name "$KUBE_NAME" --kubeconfig "$KUBE_CONFIG" --wait 120s >&2
  kind load docker-image "$IMAGE" --name "$KUBE_NAME" >&2
}

kube_up_k3d() {
  k3d cluster list "$KUBE_NAME" >/dev/null 2>&1 || k3d cluster create "$KUBE_NAME" --no-lb --wait --kubeconfig-update-default=false >&2
  k3d kubeconfig get "$KUBE_NAME" >"$KUBE_CONFIG"
  k3d image import "$IMAGE" --cluster "$KUBE_NAME" >&2
}

kube_up_minikube() {
  KUBECONFIG=$KUBE_CONFIG minikube start --profile "$KUBE_NAME" --embed-certs >&2
  minikube image load "$IMAGE" --profile "$KUBE_NAME" >&2
}

kubernetes_down() {
  [[ -e $KUBE_STATE ]] || return 0
  case $(cat "$KUBE_STATE/tool" 2>/dev/null) in
    kind) kind delete cluster --name "$KUBE_NAME" >&2 ;;
    k3d) k3d cluster delete "$KUBE_NAME" >&2 ;;
    minikube) minikube delete --profile "$KUBE_NAME" >&2 ;;
    *) node_down ;;
  esac
  rm -rf "$KUBE_STATE"
  say "kubernetes is down"
}

kubernetes_restart() { # what decides and keeps; containers run on
  node_ours || die "this Kubernetes was not started by dev/engines: restart it by its own means"
  node_stop TERM kube-scheduler kube-controller-manager kube-apiserver etcd
  node_up
}

kubernetes_kill() {
  node_ours || die "this Kubernetes was not started by dev/engines"
  node_stop KILL kube-apiserver
}

# -- many nodes, for measurements -----------------------------------------------------------------------------------

KWOK=sigs.k8s.io/kwok/cmd/kwok@v0.8.0

kubernetes_nodes() { # count: nodes that only say that they run their Pods; 0 takes them away
  local config go
  mkdir -p "$KUBE_STATE"/{log,pid} "$KUBE_BIN"
  config=$(kube_config) || die "no Kubernetes answers: dev/engines up kubernetes"
  if [[ $1 == 0 ]]; then
    kube_ctl "$config" delete node -l type=kwok --wait=false >&2
    node_stop TERM kwok
    return
  fi
  if [[ ! -x $KUBE_BIN/kwok ]]; then
    go=$(node_go)
    say "building kwok from its Go modules (some minutes, once)"
    GOBIN=$KUBE_BIN GOTOOLCHAIN=local GOFLAGS='-buildvcs=false -trimpath' nice "$go" install -ldflags '-s -w' "$KWOK" >"$KUBE_STATE/build-kwok.log" 2>&1 ||
      { tail -20 "$KUBE_STATE/build-kwok.log" >&2; die "building kwok failed; its log: $KUBE_STATE/build-kwok.log"; }
  fi
  node_start kwok --kubeconfig="$config" --config="$here/kubernetes/simulated/kwok.yaml"
  kube_nodes "$1" | kube_ctl "$config" apply -f - >/dev/null
  wait_until 120 kube_nodes_ready "$config" "$1" || die "the simulated nodes are not ready after 120 s"
  say "$1 simulated nodes (label type=kwok, taint type=kwok:NoSchedule)"
}

kube_nodes() { # count
  local size='{cpu: "64", memory: 256Gi, pods: "500", nvidia.com/gpu: "8"}' number
  for number in $(seq "$1"); do
    cat <<TEXT
---
apiVersion: v1
kind: Node
metadata: {name: simulated-$number, labels: {type: kwok, kubernetes.io/hostname: simulated-$number}}
spec: {taints: [{key: type, value: kwok, effect: NoSchedule}]}
status: {allocatable: $size, capacity: $size}
TEXT
  done
}

kube_nodes_ready() { # kubeconfig count
  [[ $(kube_ctl "$1" get nodes -l type=kwok --no-headers | grep -c ' Ready ') == "$2" ]]
}
