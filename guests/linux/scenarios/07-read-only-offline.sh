# zones made read-only and offline from outside
disk disk --size 128M --zone-size 8M --conventional 1 --max-active 6

control() { "$zvb" ctl --control "$(control_socket disk)" --quiet "$@"; }

scenario() {
    inside <<'EOS'
head -c 1M /dev/urandom >/tmp/data
for zone in 2 3 4; do
    dd if=/tmp/data of="$disk" bs=1M seek=$((zone * 8)) oflag=direct conv=notrunc status=none
done
equal before "$(conditions 0 7)" "nw em oi oi oi em em"
EOS
    control read-only --zone 2
    control offline --zone 3
    control read-only --zone 5 --count 2
    inside <<'EOS'
equal "seen" "$(conditions 0 7)" "nw em ro of oi ro ro"
cmp /tmp/data <(dd if="$disk" bs=1M skip=16 count=1 iflag=direct status=none)
fails dd if="$disk" bs=1M skip=24 count=1 iflag=direct
for zone in 2 3 5; do
    at=$((zone * 16384))
    fails dd if=/tmp/data of="$disk" bs=4k count=1 seek=$((zone * 2048 + 256)) oflag=direct conv=notrunc
    for command in open close finish reset; do fails blkzone $command -o $at -c 1 "$disk"; done
done
equal "nothing changed" "$(conditions 0 7)" "nw em ro of oi ro ro"
# Others go on.
dd if=/tmp/data of="$disk" bs=1M seek=33 oflag=direct conv=notrunc status=none
equal "the next zone's pointer" "$(zone 4 wptr)" 4096
# A file system is told, too.
modprobe zonefs
mkdir -p /tmp/fs7
mkzonefs -f "$disk" >/tmp/mkfs 2>&1 || { cat /tmp/mkfs; exit 1; }
mount -t zonefs -o errors=zone-ro "$disk" /tmp/fs7
equal "zonefs: an offline zone has a file of nothing" "$(stat -c '%s %A' /tmp/fs7/seq/2)" "0 ----------"
fails dd if=/tmp/data of=/tmp/fs7/seq/1 bs=4k count=1 oflag=direct,append conv=notrunc
umount /tmp/fs7
EOS
    # It was the disk that refused all of that.
    local kind
    for kind in write open close finish reset; do
        [ "$(with_errors disk $kind)" -ge 3 ] || { statistics disk; echo "not three of $kind"; return 1; }
    done
    control restore --zone 2
    inside <<'EOS'
blkzone reset -o $((2 * 16384)) -c 1 "$disk"
dd if=/tmp/data of="$disk" bs=1M seek=16 oflag=direct conv=notrunc status=none
equal "sound again" "$(conditions 2 1)" oi
EOS
}
