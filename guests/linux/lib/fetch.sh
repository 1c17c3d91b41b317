# What the guests are made of, fetched from the Debian mirror that this machine's apt uses, and kept.
#
#   $parts/vmm          QEMU and its firmware, run from there with their own libraries
#   $parts/linux-6.12   a kernel and its modules
#   $parts/linux-7      a newer one
#   $parts/root.ext4    the guests' root: tools, and the modules of both kernels. Guests only read it.
#   $parts/uml          User-Mode Linux, its module virtio_blk, and the C library that it wants
#
# Nothing of it is installed on this machine, only unpacked.

vmm_packages=(qemu-system-x86 seabios)
guest_packages=(
    bash coreutils diffutils grep sed mawk util-linux kmod busybox-static
    fio zbd-utils zonefs-tools btrfs-progs f2fs-tools e2fsprogs systemd
)
# Zoned XFS wants newer tools than the release has. They lie in /opt/xfs, with libraries of their own.
xfs_suite=forky
xfs_programs=(mkfs.xfs xfs_repair xfs_scrub)
kernels=(6.12 7)
# Another number for another way to put them together.
layout=4

# The mirror that serves this machine's own release.
mirror() {
    local release
    release=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") ||
        die "this is not Debian: name a Debian mirror with --mirror URI"
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$release" '$2 == release && $3 == "main" && !seen++ { print $1 }'
}

# unpack SUITE FOLDER PACKAGE... : the packages and all that they depend on.
unpack() {
    local suite=$1 folder=$2 sources packages
    shift 2
    packages=$(IFS=,; echo "$*")
    sources=("deb $mirror trixie main")
    [ "$suite" = trixie ] || sources+=("deb $mirror $suite main")
    rm -rf "$folder"
    mmdebstrap --quiet --variant=extract --aptopt="APT::Default-Release \"$suite\"" \
        --include="$packages" trixie "$folder" "${sources[@]}" </dev/null ||
        die "cannot fetch $packages from $mirror ($suite)"
}

# Programs of XFS into a guests' root. Without them there is a file that says why: the suite they come from is
# made anew every day, and may not be there.
unpack_xfs() {
    local root=$1 from=$2 loader program
    mkdir -p "$root/opt/xfs/lib" "$root/opt/xfs/programs"
    # A mirror that lags may have an index of this suite past its date. Its signature counts all the same.
    if ! mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=xfsprogs "$xfs_suite" "$from" "deb $mirror $xfs_suite main" </dev/null >"$from.log" 2>&1; then
        say "no tools for zoned XFS: $(tail -1 "$from.log")"
        echo "xfsprogs of $xfs_suite could not be fetched: $(tail -1 "$from.log")" >"$root/opt/xfs/missing"
        rm -rf "$from" "$from.log"
        return
    fi
    loader=(/usr/lib64/ld-linux-x86-64.so.2 --library-path /usr/lib/x86_64-linux-gnu)
    cp "$from/${loader[0]}" "$root/opt/xfs/lib/"
    for program in "${xfs_programs[@]}"; do
        cp "$from/usr/sbin/$program" "$root/opt/xfs/programs/"
        chroot "$from" "${loader[@]}" --list "/usr/sbin/$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' |
            while read -r library; do cp -L "$from/$library" "$root/opt/xfs/lib/"; done
        printf '#!/bin/bash\nexec /opt/xfs/lib/%s --library-path /opt/xfs/lib /opt/xfs/programs/%s "$@"\n' \
            "$(basename "${loader[0]}")" "$program" >"$root/opt/xfs/$program"
        chmod +x "$root/opt/xfs/$program"
    done
    rm -rf "$from" "$from.log"
}

# What User-Mode Linux is run from. It can not be started by a loader from outside (it takes its memory from
# where its program ends), so the one that it names becomes the one beside it.
keep_uml() {
    local from=$1/uml-root to=$1/uml
    mkdir -p "$to"
    sed 's|/lib64/ld-linux-x86-64\.so\.2|./././/ld-linux-x86-64.so.2|' "$from/usr/bin/linux.uml" >"$to/linux"
    chmod +x "$to/linux"
    cp "$from/usr/lib64/ld-linux-x86-64.so.2" "$from/usr/lib/x86_64-linux-gnu/libc.so.6" "$to/"
    cp "$from"/usr/lib/uml/modules/*/kernel/drivers/block/virtio_blk.ko "$to/"
    rm -rf "$from"
}

install_fetchers() {
    local missing=()
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    command -v mke2fs >/dev/null || missing+=(e2fsprogs)
    command -v setpriv >/dev/null || missing+=(util-linux)
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "install ${missing[*]}, or run this as root"
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# One folder per list of packages: another list is another folder, and an interrupted fetch is no folder.
fetch() {
    local key draft
    key=$(echo "$layout" "${vmm_packages[@]}" "${guest_packages[@]}" "$xfs_suite" "${xfs_programs[@]}" | sha256sum | cut -c1-12)
    parts=$cache/parts-$key
    [ -z "$refresh" ] || rm -rf "$parts"
    if [ -e "$parts" ]; then return; fi
    say "fetching QEMU, kernels and tools (once; kept in $cache)"
    install_fetchers
    [ -n "$mirror" ] || mirror=$(mirror)
    [ -n "$mirror" ] || die "apt's configuration names no mirror: use --mirror URI"
    rm -rf "$cache"/parts-*
    draft=$cache/draft
    rm -rf "$draft"
    mkdir -p "$draft"
    unpack trixie-backports "$draft/vmm" "${vmm_packages[@]}"
    unpack trixie "$draft/linux-6.12" linux-image-amd64
    unpack trixie-backports "$draft/linux-7" linux-image-amd64
    unpack trixie-backports "$draft/root" "${guest_packages[@]}"
    unpack_xfs "$draft/root" "$draft/xfs"
    unpack trixie "$draft/uml-root" user-mode-linux
    keep_uml "$draft"
    for kernel in "${kernels[@]}"; do keep_kernel "$draft" "$kernel"; done
    make_root "$draft"
    mv "$draft" "$parts"
}

# Of a kernel, the image and the modules matter; its modules go to the guests' root.
keep_kernel() {
    local draft=$1 from=$1/linux-$2 to=$1/kernel version
    version=$(ls "$from/usr/lib/modules")
    case $version in
        "$2".*) ;;
        *) die "the mirror's kernel is $version, not $2" ;;
    esac
    mkdir -p "$to" "$draft/root/usr/lib/modules"
    # In newer packages the image lies beside the modules.
    mv "$from/boot/vmlinuz-$version" "$to/vmlinuz" 2>/dev/null ||
        mv "$from/usr/lib/modules/$version/vmlinuz" "$to/vmlinuz"
    echo "$version" >"$to/version"
    mv "$from/usr/lib/modules/$version" "$draft/root/usr/lib/modules/"
    chroot "$draft/root" depmod "$version"
    first_modules "$draft/root" "$version" "$to/modules"
    rm -rf "$from"
    mv "$to" "$from"
}

# The modules without which a guest has no root, uncompressed and in the order of their loading.
first_modules() {
    local root=$1 version=$2 to=$3 module number=10
    mkdir -p "$to"
    chroot "$root" modprobe --set-version "$version" --show-depends --all virtio_pci virtio_blk ext4 |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
        while read -r module; do
            number=$((number + 1))
            chroot "$root" busybox xzcat "$module" >"$to/$number-$(basename "${module%.xz}")"
        done
}

make_root() {
    local draft=$1 root=$1/root
    cp "$root/usr/bin/busybox" "$draft/busybox"
    rm -rf "$root"/usr/share/{doc,man,locale,info} "$root"/var/{cache,lib}/apt
    mkdir -p "$root"/{dev,proc,sys,run,tmp,mnt,zvb} "$root"/{etc/default,var/lib/zvb}
    # Where a guest mounts the command under test, as if it were installed.
    touch "$root/usr/bin/zvb"
    : >"$root/etc/machine-id"
    mke2fs -q -F -t ext4 -O ^has_journal -m 0 -d "$root" "$draft/root.ext4" 1400M >/dev/null
    rm -rf "$root"
}
