# the guide's commands for disks and file systems, run
needs_in_guest "$zvb"
disk disk --size 1G --zone-size 8M --conventional 8 --max-open 32
# As filesystems.md makes it for XFS.
disk forxfs --size 832M --zone-size 16M --conventional 20 --max-open 16

scenario() {
    local script
    script=$(page filesystems guest)
    printf 'set -eux\n%s\n' "$script" | inside 300

    # The disk for XFS is the one that the page makes.
    grep -qxF "zvb create disk.zvb ${disk_options[$id.forxfs]}" <<<"$(page filesystems made)"
    script=$(page filesystems xfs)
    said=$(
        { cat <<'EOS'; printf 'set -eux\n%s\numount /tmp/fs\n' "$script"; } | inside
[ ! -e /opt/xfs/missing ] || { cat /opt/xfs/missing; exit 77; }
[ "$kernel" != 6.12 ] || { echo "zoned XFS came with Linux 6.15"; exit 77; }
PATH=/opt/xfs:$PATH disk=$forxfs
mkdir -p /tmp/fs
EOS
    ) && status=0 || status=$?
    case $status in
        0) grep -q "zoned=1" <<<"$said" ;;
        77) note "XFS: not here: $said" ;;
        *) echo "$said"; return 1 ;;
    esac

    # The lines of linux-guests.md, each on an empty disk.
    script=$(page linux-guests one)
    said=$(
        {
            printf "mkdir -p /mnt\nlines() { cat <<'EOF'\n%s\nEOF\n}\n" "$script"
            cat <<'EOS'
other=$disk
tried=0
while read -r line; do
    disk=$other
    case $line in
        mkfs.xfs*)
            [ ! -e /opt/xfs/missing ] && [ "$kernel" != 6.12 ] || continue
            PATH=/opt/xfs:$PATH disk=$forxfs
            ;;
        mkfs.f2fs*) modprobe f2fs ;;
        mkzonefs*) modprobe zonefs ;;
    esac
    wipefs -q -a "$disk"
    dd if=/dev/zero of="$disk" bs=1M count=64 oflag=direct conv=notrunc status=none
    blkzone reset "$disk"
    echo "+ $line"
    eval "$line"
    equal "what is mounted" "$(findmnt -n -o SOURCE /mnt | tail -1)" "$disk"
    umount /mnt
    tried=$((tried + 1))
done < <(lines)
echo "tried: $tried"
EOS
        } | inside 300
    ) || { echo "$said"; return 1; }
    grep -qx "tried: [34]" <<<"$said" || { echo "$said"; return 1; }

    # A disk attached to the host's kernel.
    script=$(page bare-host attached)
    { printf 'set -eux\n%s\n' "$script"; cat <<'EOS'; } | inside
for ((tries = 0; tries < 600; tries++)); do
    found=$(ls -d /sys/bus/vdpa/devices/disk/virtio*/block/* 2>/dev/null || true)
    disk=/dev/${found##*/}
    # /sys has it first.
    [ ! -b "$disk" ] || break
    sleep 0.1
done
equal "zones" "$(blkzone report "$disk" | wc -l)" 64
zvb detach disk
wait
rm disk.zvb
EOS

    # A zoned disk of the host: served, then attached.
    served=$(page host-disks served)
    script=$(page host-disks attached)
    {
        cat <<'EOS'
grep -q ' /sys/kernel/config ' /proc/mounts || mount -t configfs none /sys/kernel/config
modprobe null_blk nr_devices=0 || [ -d /sys/kernel/config/nullb ]
null=/sys/kernel/config/nullb/guide
mkdir "$null"
for setting in memory_backed=1 size=64 zoned=1 zone_size=4; do echo "${setting#*=}" >"$null/${setting%%=*}"; done
echo 1 >"$null/power"
disk=/dev/guide
set -x
EOS
        printf '%s\n' "$served"
        cat <<'EOS'
for ((tries = 0; tries < 600; tries++)); do
    ! zvb id --socket-path /tmp/zvb.sock >/dev/null 2>&1 || break
    sleep 0.1
done
equal "zones" "$(zvb report --socket-path /tmp/zvb.sock --format blkzone | wc -l)" 16
kill $!
wait $!
EOS
        printf '%s\n' "$script"
        cat <<'EOS'
for ((tries = 0; tries < 600; tries++)); do
    found=$(ls -d /sys/bus/vdpa/devices/twin/virtio*/block/* 2>/dev/null || true)
    twin=/dev/${found##*/}
    [ ! -b "$twin" ] || break
    sleep 0.1
done
head -c 64K /dev/urandom >/tmp/guide
dd if=/tmp/guide of="$twin" bs=64k seek=128 oflag=direct conv=notrunc status=none
cmp /tmp/guide <(dd if="$disk" bs=64k skip=128 count=1 iflag=direct status=none)
zvb detach twin
wait
rmdir "$null"
EOS
    } | inside
}
