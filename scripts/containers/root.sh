#!/bin/bash
# A podman 5 that needs nothing from the host but root and apt: Debian trixie's, in a root of its own.
#
#   root.sh up     make the root if it is not there, and enter it into a mount namespace kept by name
#   root.sh down   let go of the namespace (images stay in the root)
#
# The namespace sees the host's own folders at their usual paths; /usr, /etc, /var and /run are the root's.
# A real pivot_root is needed: under chroot `podman exec` and health checks run in the host's root.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
: "${CIFAKE_CONTAINER_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/cifake/containers}"; export CIFAKE_CONTAINER_CACHE
ROOT=$CIFAKE_CONTAINER_CACHE/root
NAMESPACE=/run/cifake-containers
PACKAGES=ca-certificates,podman,buildah,crun,runc,netavark,aardvark-dns,conmon,catatonit,nftables,iptables,fuse-overlayfs,passt

die() { echo "root.sh: $*" >&2; exit 2; }

make_root() {
  [ -x "$ROOT/usr/bin/podman" ] && return
  [ "$(id -u)" = 0 ] || die "needs root (or set CIFAKE_CONTAINER_TOOL to a podman 5)"
  rm -rf "$ROOT.partial"
  "$HERE/mmdebstrap.sh" --include="$PACKAGES" trixie "$ROOT.partial"
  mkdir -p "$ROOT.partial/etc/containers/containers.conf.d"
  cat >"$ROOT.partial/etc/containers/containers.conf.d/10-cifake.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
  mv "$ROOT.partial" "$ROOT"
}

up() {
  [ "$(id -u)" = 0 ] || die "needs root (or set CIFAKE_CONTAINER_TOOL to a podman 5)"
  mkdir -p "$CIFAKE_CONTAINER_CACHE" "$NAMESPACE"
  exec 9>"$NAMESPACE/lock"; flock 9
  mountpoint -q "$NAMESPACE/mnt" && return
  make_root
  mountpoint -q "$NAMESPACE" || { mount --bind "$NAMESPACE" "$NAMESPACE"; mount --make-private "$NAMESPACE"; }
  touch "$NAMESPACE/mnt"
  cp -L /etc/resolv.conf /etc/hosts "$ROOT/etc/"
  if [ -f /etc/ssl/certs/ca-certificates.crt ]; then cp -L /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/"; fi
  unshare --mount="$NAMESPACE/mnt" --propagation private bash -euc '
    mount --bind "$1" "$1"
    cd "$1"
    for name in proc sys dev; do mount --rbind "/$name" "$name"; done
    mount -t tmpfs -o mode=755 tmpfs run
    mkdir -p run/lock .old
    for folder in /*/; do
      name=$(basename "$folder")
      case $name in bin|boot|dev|etc|lib*|proc|run|sbin|sys|usr|var|lost+found) continue ;; esac
      [ -L "/$name" ] && continue
      mkdir -p "$name"; mount --rbind "/$name" "$name"
    done
    pivot_root . .old
    umount -l /.old
  ' _ "$ROOT"
}

down() {
  mountpoint -q "$NAMESPACE/mnt" || return 0
  umount "$NAMESPACE/mnt"
}

case ${1:-} in
  up) up ;;
  down) down ;;
  *) die "usage: root.sh up|down" ;;
esac
