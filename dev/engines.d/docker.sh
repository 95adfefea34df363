# Docker for dev/engines: the daemon that answers, or one started by hand from Debian's packages.
# shellcheck shell=bash

DOCKERD_PID=$STATE/dockerd.pid
DOCKERD_LOG=$STATE/dockerd.log
DOCKERD_DATA=/var/lib/docker
DOCKERD_RUN=/var/run/docker
if [[ $INSTANCE != 0 ]]; then
  export DOCKER_HOST=unix:///var/run/customjob-docker-$INSTANCE.sock
  DOCKERD_DATA=/var/lib/customjob-docker-$INSTANCE
  DOCKERD_RUN=/var/run/customjob-docker-$INSTANCE
fi

docker_host() {
  echo "${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || echo unix:///var/run/docker.sock)}"
}

docker_answers() {
  local within=()
  ! command -v timeout >/dev/null || within=(timeout 10) # macOS has none
  command -v docker >/dev/null && ${within[@]+"${within[@]}"} docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

docker_ours() { # the daemon that this script started is alive
  [[ -s $DOCKERD_PID ]] && [[ $(ps -o comm= -p "$(<"$DOCKERD_PID")" 2>/dev/null) == dockerd ]]
}

docker_why() {
  docker_answers && return
  if command -v docker >/dev/null; then
    echo "docker: no daemon answers at $(docker_host) (dev/engines up docker starts one where it may)"
  else
    echo "docker: the docker command is not installed (dev/engines up docker installs it on Debian as root)"
  fi
  return 1
}

docker_env() { docker_answers && echo "export DOCKER_HOST=$(docker_host)" || true; }

docker_up() {
  if ! docker_answers; then
    is_root_debian || die "no Docker answers at $(docker_host), and only root on Debian may install and start one: start yours, then run this again"
    apt_install docker.io iptables iproute2 procps
    # Under an init system the package itself has just started it.
    wait_until 3 docker_answers || docker_start
  fi
  docker_image
  say "docker $(docker version --format '{{.Server.Version}}') at $(docker_host), image $IMAGE"
}

docker_start() {
  local run=(dockerd --host "${DOCKER_HOST:-unix:///var/run/docker.sock}" --pidfile "$DOCKERD_PID" --data-root "$DOCKERD_DATA" --exec-root "$DOCKERD_RUN")
  # Own namespaces: two daemons would rewrite each other's bridge and firewall rules, and its mounts go with it.
  [[ $INSTANCE == 0 ]] || run=(unshare --net --mount --propagation slave sh -c 'ip link set lo up && exec "$@"' sh "${run[@]}")
  rm -f "$DOCKERD_PID"
  setsid nohup "${run[@]}" >>"$DOCKERD_LOG" 2>&1 </dev/null &
  wait_until 60 docker_answers || { tail -20 "$DOCKERD_LOG" >&2; die "dockerd did not answer within 60 s; its log: $DOCKERD_LOG"; }
}

docker_stop() { # signal
  docker_ours || return 0
  local pid
  pid=$(<"$DOCKERD_PID")
  kill "-$1" "$pid"
  wait_until 60 docker_gone "$pid" || die "dockerd (process $pid) is still there 60 s after SIG$1"
}

docker_gone() { ! kill -0 "$1" 2>/dev/null; }

docker_down() {
  docker_ours || return 0
  docker_stop TERM
  rm -f "$DOCKERD_PID"
  # A second engine was made to be thrown away; the machine's images and volumes stay.
  [[ $INSTANCE == 0 ]] || rm -rf "$DOCKERD_DATA" "$DOCKERD_RUN"
  say "docker is down"
}

docker_restart() {
  docker_ours || die "this Docker was not started by dev/engines: restart it by its own means"
  docker_stop TERM
  docker_start
}

docker_kill() {
  docker_ours || die "this Docker was not started by dev/engines"
  docker_stop KILL
}

docker_image() {
  docker image inspect "$IMAGE" >/dev/null 2>&1 && return
  if is_root_debian; then
    docker_import_debian
  else
    say "pulling python:3.11-slim as $IMAGE"
    docker pull --quiet python:3.11-slim >/dev/null || die "no base image: python:3.11-slim could not be pulled, and only root on Debian may build one"
    docker tag python:3.11-slim "$IMAGE"
  fi
}

docker_import_debian() {
  local bundle=/etc/ssl/certs/ca-certificates.crt
  python_root_tar "${SSL_CERT_FILE:-$bundle}"
  # Behind a network with its own certificate authority, pip in a container trusts what this host trusts.
  docker import \
    --change 'CMD ["python3"]' --change "ENV PIP_CERT=$bundle" --change "ENV SSL_CERT_FILE=$bundle" \
    --change "ENV REQUESTS_CA_BUNDLE=$bundle" --change 'ENV PIP_DISABLE_PIP_VERSION_CHECK=1' \
    "$PYTHON_ROOT_TAR" "$IMAGE" >/dev/null
}
