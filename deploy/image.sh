#!/usr/bin/env bash
# Builds an OCI image of tensord, without a container engine: mmdebstrap makes a small Debian, umoci
# makes it an image. Needs Debian and root; what is built is for this Debian and this processor.
#
#   deploy/image.sh                  the image, as the OCI layout build/image/oci, tag latest
#   deploy/image.sh --archive FILE   also as one file, an OCI archive: podman load -i FILE
#   deploy/image.sh --fresh          with Debian's packages of today, not those of the last time
#   deploy/image.sh --help
#
# Others take it from the layout: skopeo copy oci:build/image/oci:latest docker://..., or
# umoci unpack --image build/image/oci:latest BUNDLE && runc run --bundle BUNDLE NAME. How it is run
# says deploy/Containerfile, which makes the same with an engine. Everything this makes is under
# build/.

set -u -o pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
image=$PWD/build/image
# shellcheck source=deploy/packages.sh
. deploy/packages.sh

USER_ID=10001 # as in deploy/Containerfile
USER_LINE="tensord:x:$USER_ID:$USER_ID::/:/usr/sbin/nologin"

die() {
  echo "deploy/image.sh: $*" >&2
  exit 1
}

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' deploy/image.sh; }

# quietly LOG COMMAND...: its output goes to the log, and is shown if it fails
quietly() {
  local log=$image/$1.log
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    die "$1 failed; all it said is in ${log#"$PWD/"}"
  }
}

# Everything Debian in the image, as a tar file. No documentation, no translations.
make_rootfs() {
  local without=() folder
  for folder in doc man locale info lintian; do
    without+=("--dpkgopt=path-exclude=/usr/share/$folder/*")
  done
  # shellcheck disable=SC2016,SC2086 # $1 is for the hook; the list becomes one with commas
  mmdebstrap --mode=root --variant=essential --skip=output/dev "${without[@]}" \
    --include="$(echo $PACKAGES_RUNTIME | tr ' ' ,)" \
    --customize-hook="echo '$USER_LINE' >>\"\$1/etc/passwd\"" \
    --customize-hook="echo 'tensord:x:$USER_ID:' >>\"\$1/etc/group\"" \
    "$suite" "$1"
}

# The layer below tensord's own: made anew when another Debian or other packages are wanted.
build_base() {
  local rootfs=$image/rootfs.tar
  base=$image/base-$({ declare -f make_rootfs && echo "$suite $PACKAGES_RUNTIME $USER_ID"; } |
    sha256sum | cut -c 1-12)
  [ -z "$fresh" ] || rm -rf "$base"
  [ -f "$base/index.json" ] && return 0
  echo "a Debian $suite for the image (mmdebstrap, about half a minute)"
  rm -rf "$image"/base-* "$rootfs"
  quietly mmdebstrap make_rootfs "$rootfs"
  quietly umoci umoci init --layout "$base.new"
  quietly umoci umoci new --image "$base.new:base"
  quietly umoci umoci raw add-layer --image "$base.new:base" \
    --history.created_by "mmdebstrap $suite" "$rootfs"
  quietly umoci umoci gc --layout "$base.new"
  mv "$base.new" "$base" && rm "$rootfs"
}

# tensord's own layer, as a folder.
build_programs() {
  local build=$image/build
  [ -f "$build/build.ninja" ] ||
    quietly meson meson setup "$build" --prefix=/usr -Dbuildtype=release -Dstrip=true \
      -Dtests=disabled
  quietly ninja ninja -C "$build"
  rm -rf "$image/programs"
  DESTDIR=$image/programs quietly install meson install -C "$build" --no-rebuild --tags runtime
  install -d -o $USER_ID -g $USER_ID -m 0755 "$image/programs/run/tensord"
}

build_image() {
  local stamp new=$image/oci.new layer=$image/programs.tar
  tar -C "$image/programs" --sort=name --mtime=@0 --numeric-owner -cf "$layer" run usr
  stamp=$(cat "$layer" "$base/index.json" deploy/image.sh | sha256sum)
  [ -d "$image/oci" ] && [ "$(cat "$image/oci.stamp" 2>/dev/null)" = "$stamp" ] && return 0
  rm -rf "$new"
  cp -r "$base" "$new"
  quietly umoci umoci raw add-layer --image "$new:base" --tag latest \
    --history.created_by "deploy/image.sh" "$layer"
  # Who may enter the mounted folder may connect, whatever user that is to this container.
  quietly umoci umoci config --image "$new:latest" \
    --config.user $USER_ID:$USER_ID \
    --config.entrypoint /usr/bin/tensord \
    --config.env TENSORD_SOCKET=/run/tensord/tensord.sock \
    --config.env TENSORD_SOCKET_MODE=0666 \
    --config.env TENSORD_URL=unix:///run/tensord/tensord.sock \
    --config.exposedports 7070/tcp --config.exposedports 7071/tcp \
    --config.volume /run/tensord \
    --config.stopsignal SIGTERM \
    --config.label org.opencontainers.image.title=tensord \
    --config.label org.opencontainers.image.licenses=Apache-2.0
  quietly umoci umoci rm --image "$new:base"
  quietly umoci umoci gc --layout "$new"
  rm -rf "$image/oci" && mv "$new" "$image/oci" && echo "$stamp" >"$image/oci.stamp"
}

archive="" fresh=""
while [ $# -gt 0 ]; do
  case $1 in
    --archive) archive=${2:?--archive needs a file} && shift ;;
    --fresh) fresh=1 ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown option $1; deploy/image.sh --help lists them" ;;
  esac
  shift
done

instead="an engine and deploy/Containerfile are another way"
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") ||
  die "needs Debian, whose libraries tensord is built with; $instead"
[ "$(id -u)" -eq 0 ] || die "needs root, for files of other owners; $instead"
# shellcheck disable=SC2086 # a list
ensure_packages $PACKAGES_BUILD && ensure_image || exit 1
mkdir -p "$image"
build_base
build_programs
build_image
[ -z "$archive" ] || tar -C "$image/oci" -cf "$archive" . || die "cannot write $archive"
echo "build/image/oci:latest is the image${archive:+, and $archive}"
