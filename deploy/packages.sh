# Which Debian packages tensord needs, and how to get them. Sourced, not run.
#
#   ensure_packages PACKAGE...   installs what is missing: with apt where there is root or sudo,
#                                else says exactly what to install and returns 1.
#   ensure_python                a python3 that can make virtual environments and build extensions
#   ensure_image                 what deploy/image.sh makes an image with
#   ensure_containers            what tests/containers starts it with, and connects networks with
#   ensure_bench                 the servers that `tests/bench/run.py --peers` compares with

PACKAGES_BUILD="gcc libc6-dev dpkg-dev meson ninja-build pkg-config
  libuv1-dev libmicrohttpd-dev libcjson-dev libarchive-dev uthash-dev libbsd-dev libinih-dev
  libsystemd-dev"
PACKAGES_PYTHON="python3 python3-venv python3-dev"
PACKAGES_TEST="clang libclang-rt-14-dev libcmocka-dev clang-format curl spin systemd"
PACKAGES_RUNTIME="libuv1 libmicrohttpd12 libcjson1 libarchive13 libinih1 libsystemd0"
PACKAGES_IMAGE="mmdebstrap umoci"
PACKAGES_CONTAINERS="runc iproute2 util-linux"
PACKAGES_BENCH="redis-server memcached nginx-light wrk"

package_missing() {
  local package
  for package in "$@"; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
      printf '%s ' "$package"
  done
}

ensure_packages() {
  local missing as_root=""
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "no apt here, so this goes on without looking; needed (Debian's names):" $* >&2
    return 0
  fi
  missing=$(package_missing "$@")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
      python_suffices || missing="$missing $(package_missing $PACKAGES_PYTHON)"
      echo "packages are missing, and this user may not install them. Run as root:" >&2
      echo "  apt-get update && apt-get install -y $missing" >&2
      return 1
    fi
    as_root="sudo -n"
  fi
  echo "installing: $missing"
  if ! { $as_root apt-get update -qq && # shellcheck disable=SC2086 # the list is meant to split
    $as_root env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends $missing >/dev/null; }; then
    echo "apt could not install: $missing" >&2
    return 1
  fi
}

python_suffices() {
  python3 - 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(0 if sys.version_info >= (3, 10) and os.path.exists(header) else 1)
PYTHON
}

ensure_python() {
  # shellcheck disable=SC2086
  python_suffices || ensure_packages $PACKAGES_PYTHON
  python_suffices || {
    echo "python3 of at least 3.10 with venv and its headers is needed" >&2
    return 1
  }
}

# Debian starts the services it installs, where it can; the benchmarks start processes of their own.
ensure_bench() {
  # shellcheck disable=SC2086
  ensure_packages $PACKAGES_BENCH
}

ensure_image() {
  # shellcheck disable=SC2086
  ensure_packages $PACKAGES_IMAGE
}

ensure_containers() {
  # shellcheck disable=SC2086
  ensure_packages $PACKAGES_CONTAINERS
}

# What the Python package is built from, as one line that changes when any of it does.
package_stamp() {
  find core proto/wire client meson.build meson_options.txt pyproject.toml -type f \
    -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
}
