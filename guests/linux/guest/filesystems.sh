# File systems on zoned disks. Reads lib.sh first. The disk of the file system S is in the variable $S, and it is
# mounted at /tmp/fs/S.

# missing S: why this guest can not have it; nothing when it can.
missing() {
    case $1 in
        btrfs) modprobe -q btrfs || echo "this kernel has no btrfs" ;;
        f2fs) modprobe -q f2fs || echo "this kernel has no f2fs" ;;
        xfs)
            modprobe -q xfs || echo "this kernel has no xfs"
            [ "$kernel" != 6.12 ] || echo "zoned XFS came with Linux 6.15"
            [ ! -e /opt/xfs/missing ] || cat /opt/xfs/missing
            ;;
    esac | sed -n 1p
}

# make S: an empty one.
make() {
    case $1 in
        btrfs) mkfs.btrfs -q -f -d single -m single "${!1}" ;;
        f2fs) mkfs.f2fs -q -f -m "${!1}" ;;
        xfs)
            /opt/xfs/mkfs.xfs -f "${!1}" >"/tmp/mkfs.$1"
            grep "zoned=1" "/tmp/mkfs.$1"
            ;;
    esac >"/tmp/made.$1" 2>&1 || { cat "/tmp/made.$1"; dmesg | tail -5; exit 1; }
}

mounted() {
    mkdir -p "/tmp/fs/$1"
    case $1 in
        f2fs) mount -t f2fs -o mode=lfs "${!1}" "/tmp/fs/$1" ;;
        *) mount "${!1}" "/tmp/fs/$1" ;;
    esac || { dmesg | tail -5; exit 1; }
}

unmounted() { umount "/tmp/fs/$1"; }

# sound S: the mounted file system is. Programs look that change nothing.
sound() {
    local at=/tmp/fs/$1 said=/tmp/sound.$1
    sync -f "$at"
    case $1 in
        btrfs)
            btrfs scrub start -B "$at" >"$said" 2>&1 || { cat "$said"; exit 1; }
            grep -q "no errors found" "$said" || { cat "$said"; exit 1; }
            equal "device errors" "$(btrfs device stats "$at" | awk '{ n += $2 } END { print n + 0 }')" 0
            ;;
        f2fs)
            unmounted "$1"
            fsck.f2fs --dry-run "${!1}" >"$said" 2>&1 || { tail -40 "$said"; exit 1; }
            mounted "$1"
            ;;
        xfs)
            # xfs_scrub looks while it is mounted, and xfs_repair when it is not. One that was not unmounted has been
            # mounted since, so its log is clean.
            /opt/xfs/xfs_scrub -n "$at" >"$said" 2>&1 || { cat "$said"; dmesg | tail -5; exit 1; }
            unmounted "$1"
            /opt/xfs/xfs_repair -n "${!1}" >"$said" 2>&1 || { cat "$said"; exit 1; }
            mounted "$1"
            ;;
    esac
}

# filled S: with a tree of files.
filled() {
    local n
    mkdir "/tmp/fs/$1/tree"
    cp -a /usr/sbin /usr/share/bash-completion "/tmp/fs/$1/tree"
    for ((n = 0; n < 100; n++)); do head -c $((n * 291)) /dev/urandom >"/tmp/fs/$1/tree/$n"; done
}

# tree_sum S: of the names in that tree, and what is in them.
tree_sum() { (cd "/tmp/fs/$1/tree" && find . -type f -exec sha256sum {} + | sort -k2 | sha256sum | cut -c1-64); }

# load S NAME: writes files without end, or until there is a file /tmp/enough.S. Once one is synced, that and its checksum
# go to /tmp/synced.S, and to the console, which outlives the guest.
load() {
    local n file sum
    mkdir -p "/tmp/fs/$1/$2"
    rm -f "/tmp/synced.$1"
    for ((n = 0; n < 100000; n++)); do
        [ ! -e "/tmp/enough.$1" ] || break
        file=/tmp/fs/$1/$2/$n
        head -c $((RANDOM * 12)) /dev/urandom >"$file"
        sync "$file"
        sum=$(sha256sum "$file")
        echo "$sum" >>"/tmp/synced.$1"
        printf '\nsynced %s\n' "$sum" >/dev/console
        # Room for more, and zones to be reclaimed.
        [ "$n" -lt 20 ] || rm "/tmp/fs/$1/$2/$((n - 20))"
    done
}

# synced_is_whole S: the files that were synced last are there and whole, those that the load cannot have removed.
synced_is_whole() {
    tail -15 "/tmp/synced.$1" >"/tmp/last.$1"
    sha256sum --quiet -c "/tmp/last.$1"
}

# in_background S COMMAND...: COMMAND S..., for as long as it takes.
in_background() {
    local system=$1 command=$2
    shift 2
    "$command" "$system" "$@" </dev/null >/dev/null 2>&1 &
}

# each COMMAND [ARGUMENT...]: COMMAND S ARGUMENT... for every file system of $systems, all at the same time.
each() {
    local command=$1 system failed=
    local -A process
    shift
    for system in $systems; do
        ("$command" "$system" "$@") >"/tmp/each.$system" 2>&1 &
        process[$system]=$!
    done
    for system in $systems; do
        wait "${process[$system]}" || failed=1
        sed "s/^/$system: /" "/tmp/each.$system"
    done
    [ -z "$failed" ] || exit 1
}
