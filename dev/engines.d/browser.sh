# A headless browser for dev/engines, in which the tests look at Airflow's pages: a Chromium that is installed, else Debian's.
# shellcheck shell=bash

browser_path() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

browser_why() {
  browser_path >/dev/null && return
  echo "browser: no Chromium is installed (dev/engines up browser installs Debian's)"
  return 1
}

browser_env() { :; }

browser_up() {
  if ! browser_path >/dev/null; then
    is_root_debian || die "no Chromium is installed, and only root on Debian may install one: install it, then run this again"
    apt_install chromium fonts-dejavu-core
  fi
  say "browser at $(browser_path)"
}

# Each test starts one of its own.
browser_down() { :; }
browser_restart() { :; }
browser_kill() { :; }
