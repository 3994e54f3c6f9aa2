#!/usr/bin/env bash
# Build the image without a daemon, as root, and try it. Minutes and gigabytes: run it when the
# Containerfile or the lock changes.
#
#   image.sh base    make a base image of Debian with Python (where no image registry can be reached)
#   image.sh build   build the image and the one with the tests
#   image.sh test    inspect the image and run the tests inside: read-only, no HOME, not as root
#   image.sh unpack FOLDER   write the image's files to a folder, for ch-run
#
# BASE_IMAGE       what to build on (default: what `base` makes)
# TORCH_BUILD      cpu (default here) or cuda
# PIP_FIND_LINKS   a folder of wheels on this machine; it is mounted into the build
# PIP_CERT         a file of certificates on this machine; it is mounted too
set -euo pipefail
cd "$(dirname "$0")/../.."

DEBIAN_BASE=localhost/healthgym-base
BASE_IMAGE=${BASE_IMAGE:-$DEBIAN_BASE}
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
MOST_MEGABYTES=1600 # of a CPU build

base() {
    local root working
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
    working=$(buildah from scratch)
    buildah copy --quiet "$working" "$root" /
    buildah commit --rm "$working" "$DEBIAN_BASE"
    rm -rf "$root"
}

build() {
    local words=(--build-arg "BASE_IMAGE=$BASE_IMAGE" --build-arg "TORCH_BUILD=${TORCH_BUILD:-cpu}")
    words+=(--build-arg "REVISION=$(git rev-parse HEAD)" --ignorefile .containerignore)
    if [ -n "${PIP_FIND_LINKS:-}" ]; then
        words+=(--volume "$PIP_FIND_LINKS:/run/wheels:ro" --build-arg PIP_FIND_LINKS=/run/wheels)
    fi
    if [ -n "${PIP_CERT:-}" ]; then
        words+=(--volume "$(realpath "$PIP_CERT"):/run/certificates.crt:ro" --build-arg PIP_CERT=/run/certificates.crt)
    fi
    buildah build --layers "${words[@]}" -t localhost/healthgym .
    buildah build --layers "${words[@]}" --target test -t localhost/healthgym-test .
}

inside() { # image, command...: not root, no HOME
    local working status=0
    working=$(buildah from "$1")
    shift
    buildah run "$working" -- env -u HOME "$@" || status=$?
    buildah rm "$working" >/dev/null
    return $status
}

look() {
    local working size
    working=$(buildah from localhost/healthgym)
    size=$(du -sm "$(buildah mount "$working")" | cut -f 1)
    buildah rm "$working" >/dev/null
    [ "$(inside localhost/healthgym id -u)" != 0 ] || { echo "it runs as root" >&2; exit 1; }
    if inside localhost/healthgym sh -c 'touch /opt/healthgym/x /opt/venv/x' 2>/dev/null; then
        echo "its user can change it" >&2
        exit 1
    fi
    echo "image: $size MB"
    ((size < MOST_MEGABYTES)) || { echo "the image is larger than $MOST_MEGABYTES MB" >&2; exit 1; }
    inside localhost/healthgym python -m healthgym --help
}

tests_inside() { # those of the package; tests/checkout checks the checkout, which is not in the image
    inside localhost/healthgym-test python -m pytest -p no:cacheprovider --ignore=tests/checkout \
        -m "not slow and not nightly and not slurm and not cuda and not triton and not browser"
}

unpack() {
    local working mounted
    working=$(buildah from localhost/healthgym)
    mounted=$(buildah mount "$working")
    mkdir -p "$1"
    cp -a "$mounted/." "$1"
    buildah umount "$working" >/dev/null
    buildah rm "$working" >/dev/null
}

case "${1:-}" in
    base) base ;;
    build) build ;;
    test) look && tests_inside ;;
    unpack) unpack "$2" ;;
    *) sed -n '2,15p' "$0" && exit 2 ;;
esac
