# a disk grown while attached: the guest sees the new capacity
disk disk --size 60M --zone-size 8M --zone-capacity 6M --conventional 1
disk aware --size 60M --zone-size 8M --model host-aware

grow() { "$zvb" ctl --control "$(control_socket "$1")" --quiet resize --size "$2"; }

scenario() {
    inside <<'EOS'
equal "size at first" "$(blockdev --getsize64 "$disk")" $((60 << 20))
equal "zones at first" "$(blkzone report "$disk" | wc -l)" 8
equal "the last zone is smaller" "$(zone 7 len)" 8192
head -c 4M /dev/urandom >/tmp/data
dd if=/tmp/data of="$disk" bs=1M seek=16 oflag=direct conv=notrunc status=none
modprobe ext4
mke2fs -q -t ext4 "$aware"
mkdir -p /tmp/fs10
mount "$aware" /tmp/fs10
cp /tmp/data /tmp/fs10
EOS
    grow disk 128M
    grow aware 160M
    inside <<'EOS'
# Each is told by itself, in any order.
for one in "$disk" "$aware"; do
    for ((tries = 0; tries < 300; tries++)); do
        [ "$(blockdev --getsize64 "$one")" = $((60 << 20)) ] || break
        sleep 0.2
    done
done
equal "size" "$(blockdev --getsize64 "$disk")" $((128 << 20))
equal "size of the host-aware disk" "$(blockdev --getsize64 "$aware")" $((160 << 20))
cmp /tmp/data <(dd if="$disk" bs=1M skip=16 count=4 iflag=direct status=none)
# A file system on it takes the room.
resize2fs "$aware" >/tmp/resize 2>&1 || { cat /tmp/resize; exit 1; }
dd if=/dev/urandom of=/tmp/fs10/more bs=1M count=80 conv=fsync status=none
cmp /tmp/data /tmp/fs10/data
umount /tmp/fs10
e2fsck -f -n "$aware" >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
# Linux counts the zones of a disk when its driver takes it.
device=$(readlink -f "/sys/block/${disk##*/}/device")
device=${device##*/}
echo "$device" >/sys/bus/virtio/drivers/virtio_blk/unbind
echo "$device" >/sys/bus/virtio/drivers/virtio_blk/bind
for ((tries = 0; tries < 300; tries++)); do
    found=("/sys/bus/virtio/devices/$device/block"/*)
    disk=/dev/${found[0]##*/}
    [ ! -b "$disk" ] || break
    sleep 0.2
done
equal "zones" "$(queue nr_zones)" 16
equal "the zone that was smaller" "$(zone 7 len) $(zone 7 cap)" "16384 12288"
equal "conditions" "$(conditions 0 16)" "nw em oi em em em em em em em em em em em em em"
dd if=/tmp/data of="$disk" bs=1M seek=120 oflag=direct conv=notrunc status=none
dd if=/tmp/data of="$disk" bs=1M seek=56 oflag=direct conv=notrunc status=none
cmp /tmp/data <(dd if="$disk" bs=1M skip=120 count=4 iflag=direct status=none)
cmp /tmp/data <(dd if="$disk" bs=1M skip=16 count=4 iflag=direct status=none)
EOS
}
