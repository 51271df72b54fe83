#!/usr/bin/env bash
# Builds tensord, starts it, and takes it through a short tour.
#
#   deploy/up.sh                installs what is missing (apt, with root or sudo), builds, starts
#                               the daemon in the background, and shows it at work on a tensor
#   deploy/up.sh --foreground   the same up to the start; the daemon then runs in this terminal
#   deploy/up.sh --stop         ends the daemon that deploy/up.sh started
#   deploy/up.sh --help
#
# What stands after -- goes to the daemon: deploy/up.sh -- --no-tcp --memory-limit 1GiB
# The socket is $TENSORD_SOCKET, else $XDG_RUNTIME_DIR/tensord.sock, else /run/tensord.sock, else
# build/up/tensord.sock. Everything it makes is under build/.

set -u -o pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
root=$(pwd -P) # as /proc names the daemon
build=$root/build/up
venv=$root/build/up-venv
daemon=$build/tensord
pid_file=$build/tensord.pid   # two lines: process id, socket
log=$build/tensord.log
# shellcheck source=deploy/packages.sh
. deploy/packages.sh

say() { echo "tensord: $*"; }
die() {
  echo "tensord: $*" >&2
  exit 1
}

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$root/deploy/up.sh"; }

# The process id of the daemon that runs, if it is ours: a number may have been given anew since.
running_pid() {
  local pid exe
  pid=$(sed -n 1p "$pid_file" 2>/dev/null)
  [ -n "$pid" ] && exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 1
  [ "${exe% (deleted)}" = "$daemon" ] && echo "$pid"
}

choose_socket() {
  if [ -n "${TENSORD_SOCKET:-}" ]; then
    echo "$TENSORD_SOCKET"
  elif [ -n "${XDG_RUNTIME_DIR:-}" ] && [ -w "$XDG_RUNTIME_DIR" ]; then
    echo "$XDG_RUNTIME_DIR/tensord.sock"
  elif [ -w /run ]; then
    echo /run/tensord.sock
  else
    echo "$build/tensord.sock"
  fi
}

build_daemon() {
  mkdir -p build
  say "building in build/up"
  : >build/up-build.log
  if [ "$(cat "$build/.source" 2>/dev/null)" != "$root" ]; then # new, or the checkout was moved
    rm -rf "$build" && meson setup "$build" -Dtests=disabled >build/up-build.log 2>&1 &&
      echo "$root" >"$build/.source"
  fi && ninja -C "$build" >>build/up-build.log 2>&1 || {
    tail -n 20 build/up-build.log >&2
    die "the build failed; all of it is in build/up-build.log"
  }
}

# The Python package and NumPy, in a virtual environment of their own; 1 if they cannot be had.
build_python() {
  local stamp
  ensure_python >build/up-python.log 2>&1 || return 1
  stamp="$(package_stamp) $(python3 -V)"
  [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ] && return 0
  say "installing the Python package and NumPy in build/up-venv"
  { [ -x "$venv/bin/python" ] || python3 -m venv "$venv"; } >build/up-python.log 2>&1 &&
    "$venv/bin/pip" install -q --force-reinstall --no-deps . >>build/up-python.log 2>&1 &&
    "$venv/bin/pip" install -q cffi numpy >>build/up-python.log 2>&1 || return 1
  echo "$stamp" >"$venv/.stamp"
}

# Whether somebody listens on the Unix socket of this path, which may have blanks in it (flag 10000:
# accepts connections).
listens_on() {
  awk -v path="$1" '$4 == "00010000" && substr($0, index($0, $8)) == path { n = 1 }
    END { exit !n }' /proc/net/unix
}

start_daemon() {
  local socket=$1 pid i
  shift
  : >"$log"
  setsid "$daemon" --socket "$socket" "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  printf '%s\n%s\n' "$pid" "$socket" >"$pid_file"
  for ((i = 0; i < 100; i++)); do
    kill -0 "$pid" 2>/dev/null || break
    if listens_on "$socket"; then
      say "started (pid $pid) at $socket; its log is build/up/tensord.log"
      return 0
    fi
    sleep 0.1
  done
  tail -n 5 "$log" >&2
  kill "$pid" 2>/dev/null
  rm -f "$pid_file"
  die "the daemon did not start; its last words are above"
}

stop_daemon() {
  local pid i
  pid=$(running_pid) || {
    say "not running (nothing that deploy/up.sh started)"
    rm -f "$pid_file"
    return 0
  }
  kill -TERM "$pid"
  for ((i = 0; i < 300; i++)); do
    [ -n "$(running_pid)" ] || break
    sleep 0.1
  done
  [ -z "$(running_pid)" ] || die "pid $pid is still draining after 30 s; kill -9 $pid ends it hard"
  rm -f "$pid_file"
  say "stopped (pid $pid)"
}

tour() {
  local socket=$1
  export TENSORD_URL=unix://$socket
  if build_python; then
    "$venv/bin/python" client/python/examples/tour.py
  else
    say "no Python package here (build/up-python.log says why), so the tour is the C example"
    "$build/client/example/share"
  fi || die "the tour failed"
  echo
  [ ! -x "$venv/bin/python" ] ||
    say "try it:  TENSORD_URL=$TENSORD_URL ${venv#"$root/"}/bin/python"
  http=$(sed -n 's|.*\(http://[^,; ]*\).*|\1|p' "$log" | tail -n 1)
  [ -z "$http" ] || say "or:      curl $http/"
  say "end it:  deploy/up.sh --stop"
}

mode=background
while [ $# -gt 0 ]; do
  case $1 in
    --foreground) mode=foreground ;;
    --stop) mode=stop ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) die "unknown option $1; deploy/up.sh --help lists them" ;;
  esac
  shift
done

if [ $mode = stop ]; then
  stop_daemon
  exit
fi

# shellcheck disable=SC2086 # a list
ensure_packages $PACKAGES_BUILD || exit 1
build_daemon
if pid=$(running_pid); then
  socket=$(sed -n 2p "$pid_file")
  [ $mode = background ] || die "running already (pid $pid); deploy/up.sh --stop ends it"
  say "running already (pid $pid) at $socket; using it"
  case $(readlink "/proc/$pid/exe") in
    *deleted*) say "it is of an older build; deploy/up.sh --stop, then deploy/up.sh, replaces it" ;;
  esac
else
  socket=$(choose_socket)
  [ $mode = background ] || exec "$daemon" --socket "$socket" "$@"
  start_daemon "$socket" "$@"
fi
tour "$socket"
