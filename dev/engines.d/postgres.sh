# PostgreSQL for dev/engines, the database of the tests' Airflow: the server of CUSTOMJOB_POSTGRES if it answers, else one of our own.
# shellcheck shell=bash

POSTGRES_GIVEN=${CUSTOMJOB_POSTGRES:-}
[[ $INSTANCE == 0 ]] || POSTGRES_GIVEN=
# It refuses to run as root, and Debian's own user may not look into root's folders.
POSTGRES_DATA=$STATE/postgres
[[ $(id -u) != 0 ]] || POSTGRES_DATA=/var/lib/customjob-postgres-$INSTANCE
POSTGRES_OWN="postgresql://postgres@/postgres?host=$POSTGRES_DATA"

postgres_as() { if [[ $(id -u) == 0 ]]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi; }

postgres_bin() { # where Debian keeps its newest, else what the path leads to
  local debian=(/usr/lib/postgresql/*/bin/pg_ctl) control
  control=$(command -v pg_ctl || true)
  [[ ! -x ${debian[-1]} ]] || control=${debian[-1]}
  [[ -z $control ]] || dirname "$control"
}

postgres_url() { # of the server that answers
  local url
  command -v psql >/dev/null || return 1
  for url in $POSTGRES_GIVEN "$POSTGRES_OWN"; do
    PGCONNECT_TIMEOUT=5 psql -qAt "$url" -c 'select 1' >/dev/null 2>&1 && { echo "$url"; return; }
  done
  return 1
}

postgres_why() {
  postgres_url >/dev/null && return
  echo "postgres: no server answers (dev/engines up postgres starts one; CUSTOMJOB_POSTGRES=postgresql://... names another)"
  return 1
}

postgres_env() {
  local url
  url=$(postgres_url) && echo "export CUSTOMJOB_POSTGRES='$url'" || true
}

postgres_up() {
  if ! postgres_url >/dev/null; then
    if [[ -z $(postgres_bin) ]] || ! command -v psql >/dev/null; then
      is_root_debian || die "no PostgreSQL is installed, and only root on Debian may install one: install it, then run this again"
      apt_install postgresql
    fi
    postgres_start
  fi
  say "postgres at $(postgres_url)"
}

postgres_start() {
  local bin
  bin=$(postgres_bin)
  if [[ ! -s $POSTGRES_DATA/PG_VERSION ]]; then
    mkdir -p "$POSTGRES_DATA"
    [[ $(id -u) != 0 ]] || chown postgres: "$POSTGRES_DATA"
    postgres_as "$bin/initdb" --pgdata "$POSTGRES_DATA" --username postgres --auth trust --encoding UTF8 --locale C --no-sync >"$STATE/initdb.log" 2>&1 ||
      { tail -20 "$STATE/initdb.log" >&2; die "initdb failed; its log: $STATE/initdb.log"; }
  fi
  # What is in it is made anew by any test: it need not survive a power cut.
  postgres_as "$bin/pg_ctl" start --silent --wait --pgdata "$POSTGRES_DATA" --log "$POSTGRES_DATA/log" --options \
    "-k $POSTGRES_DATA -c listen_addresses= -c max_connections=300 -c fsync=off -c synchronous_commit=off -c full_page_writes=off" ||
    { tail -20 "$POSTGRES_DATA/log" >&2; die "PostgreSQL did not start; its log: $POSTGRES_DATA/log"; }
}

postgres_ours() { [[ -s $POSTGRES_DATA/postmaster.pid ]] && kill -0 "$(head -1 "$POSTGRES_DATA/postmaster.pid")" 2>/dev/null; }

postgres_stop() { postgres_as "$(postgres_bin)/pg_ctl" stop --silent --wait --mode "$1" --pgdata "$POSTGRES_DATA"; }

postgres_down() {
  postgres_ours || return 0
  postgres_stop fast
  rm -rf "$POSTGRES_DATA"
  say "postgres is down"
}

postgres_restart() {
  postgres_ours || die "this PostgreSQL was not started by dev/engines: restart it by its own means"
  postgres_stop fast
  postgres_start
}

postgres_kill() {
  postgres_ours || die "this PostgreSQL was not started by dev/engines"
  postgres_stop immediate # as SIGKILL, to all of its processes
}
