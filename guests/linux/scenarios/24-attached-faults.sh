# attached: faults, growth, partitions, force, who may not
vm=own
needs_in_guest "$zvb" "$here/guest/attached.sh"

scenario() {
    inside 300 <<'EOS'
. "$(command -v attached.sh)"

echo "-- who may not, and without the module"
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
fails zvb attach mem:64M
says "load the module (modprobe vduse)"
modprobe -a vduse virtio_vdpa
fails nobody zvb attach mem:64M
says "only root may"
fails nobody zvb detach disk
says "no disk is attached as disk; nothing is"

echo "-- faults while the kernel has the disk"
ctl() { zvb ctl --control /tmp/disk.control --quiet "$@"; }
attach --size 64M --zone-size 4M --conventional 1
head -c 1M /dev/urandom >/tmp/data
put() { dd if=/tmp/data of="$disk" bs=64k count=16 seek=$(($1 * 64)) oflag=direct conv=notrunc status=none; }
put 2
put 3
ctl read-only --zone 2
ctl offline --zone 3
equal "seen" "$(conditions 1 4)" "em ro of em"
fails put 3
cmp /tmp/data <(dd if="$disk" bs=64k skip=128 count=16 iflag=direct status=none)
ctl fail write --zone 4 --next 1
fails put 4
# After a write that failed, Linux takes no more for the zone until somebody has asked where its pointer is.
equal "a write that failed" "$(zone 4 wptr)" 0
put 4
equal "after a write that failed" "$(zone 4 wptr)" 2048
errors=$(zvb ctl --control /tmp/disk.control stats | awk '$1 ~ /^[0-9]+$/ && $2 == "write" { n += $4 } END { print n + 0 }')
[ "$errors" -ge 1 ]
fails nobody zvb ctl --control /tmp/disk.control stats
says "ermission denied"
fails nobody zvb detach disk
says "only root may"
equal "still there" "$(conditions 1 4)" "em ro of oi"
ctl restore --zone 2 --count 2
blkzone reset -o $((2 * 8192)) -c 2 "$disk"

echo "-- a table of partitions in a conventional zone"
{
    head -c 446 /dev/zero
    printf '\0\0\0\0\x83\0\0\0\x08\0\0\0\0\x10\0\0'
    head -c 48 /dev/zero
    printf '\x55\xaa'
    head -c 3584 /dev/zero
} >/tmp/table
dd if=/tmp/table of="$disk" bs=4096 oflag=direct conv=notrunc status=none
fails blockdev --rereadpt "$disk"
partitions() { ls -d "/sys/block/${disk##*/}/${disk##*/}"[0-9]* 2>/dev/null | wc -l; }
equal "partitions of a zoned disk" "$(partitions)" 0

echo "-- it grows"
ctl resize --size 96M
for ((tries = 0; tries < 600; tries++)); do
    [ "$(blockdev --getsize64 "$disk")" = $((64 << 20)) ] || break
    sleep 0.1
done
equal "size" "$(blockdev --getsize64 "$disk")" $((96 << 20))
detach

echo "-- a plain disk has partitions, and is taken away by force while one is mounted"
attach --size 64M --zone-size 4M --model host-aware
dd if=/tmp/table of="$disk" bs=4096 oflag=direct conv=notrunc status=none
blockdev --rereadpt "$disk"
equal "partitions of a plain disk" "$(partitions)" 1
modprobe ext4
mke2fs -q -t ext4 -O ^has_journal "${disk}1"
mkdir -p /tmp/fs
mount "${disk}1" /tmp/fs
cp /tmp/data /tmp/fs
sync
fails zvb detach disk
says "${disk##*/} is in use (mounted, or under another device)"
cmp /tmp/data /tmp/fs/data
zvb detach disk --force --quiet
wait "$server"
equal "the device" "$(ls /dev/vduse)" control
echo 3 >/proc/sys/vm/drop_caches
fails cat /tmp/fs/data
umount /tmp/fs
# What was synced is in the image.
start
mount -o ro "${disk}1" /tmp/fs
cmp /tmp/data /tmp/fs/data
umount /tmp/fs
zvb detach disk --quiet
wait "$server"

echo "-- its process is killed, and its image is gone"
attach --size 64M --zone-size 4M --conventional 1
kill -9 "$server"
wait "$server" 2>/dev/null || true
# Nobody answers this one.
dd if=/tmp/data of="$disk" bs=64k count=1 oflag=direct conv=notrunc status=none 2>/tmp/dd.err &
writer=$!
sleep 1
rm "$image"
fails zvb detach disk
grep -q -- "--force" /tmp/fails || { cat /tmp/fails; exit 1; }
zvb detach disk --force >/tmp/lost 2>&1 || { cat /tmp/lost; exit 1; }
cat /tmp/lost
grep -q "no such file" /tmp/lost
! wait "$writer" || { echo "the write went nowhere, and succeeded"; exit 1; }
equal "the device, and what is written of it" "$(ls /dev/vduse)$(ls /run/zvb)" control

echo "-- its process is killed, and another image is there"
attach --size 64M --zone-size 4M --conventional 1
kill -9 "$server"
wait "$server" 2>/dev/null || true
zvb create "$image" --size 32M --force --quiet
cp "$image" /tmp/other.zvb
fails zvb detach disk
zvb detach disk --force >/tmp/lost 2>&1 || { cat /tmp/lost; exit 1; }
cat /tmp/lost
equal "the device, and what is written of it" "$(ls /dev/vduse)$(ls /run/zvb)" control
# That one was none of its business.
zvb check "$image" >/tmp/check || { cat /tmp/check; exit 1; }
zvb dump "$image" >/tmp/after
zvb dump /tmp/other.zvb >/tmp/before
cmp /tmp/before /tmp/after
rm "$image"

echo "-- the same, of an older zvb, which wrote down no shape"
attach --size 64M --zone-size 4M --conventional 1
kill -9 "$server"
wait "$server" 2>/dev/null || true
sed -i -E 's/,"shape":.*/}/' /run/zvb/disk.attached
mv "$image" /tmp/aside.zvb
fails zvb detach disk --force
says "an older zvb attached it"
says "With $image, or a copy of it, in its place"
cp /tmp/aside.zvb "$image"
zvb detach disk --quiet
equal "the device, and what is written of it" "$(ls /dev/vduse)$(ls /run/zvb)" control
rm "$image" /tmp/aside.zvb

echo "-- its process is killed, and it was in memory"
in_memory() {
    rm -f /tmp/disk.out
    zvb attach mem:64M --zone-size 4M --conventional 1 --name disk >/tmp/disk.out 2>/tmp/disk.err &
    server=$!
    while ! grep -qs Attached /tmp/disk.out; do kill -0 "$server"; sleep 0.1; done
    disk=$(sed -n 's/^Attached as \([^;]*\);.*/\1/p' /tmp/disk.out)
}
in_memory
put 2
kill -9 "$server"
wait "$server" 2>/dev/null || true
# It is not gone on with: it would be an empty one.
fails zvb attach mem:64M --zone-size 4M --conventional 1 --name disk
says '`zvb detach disk` takes it away'
dd if="$disk" of=/tmp/read bs=64k skip=128 count=1 iflag=direct status=none 2>/tmp/dd.err &
reader=$!
sleep 0.5
zvb detach disk >/tmp/lost 2>&1 || { cat /tmp/lost; exit 1; }
grep -q "was in memory" /tmp/lost || { cat /tmp/lost; exit 1; }
! wait "$reader" || { echo "what was lost was read"; exit 1; }
equal "the device, and what is written of it" "$(ls /dev/vduse)$(ls /run/zvb)" control

echo "-- in memory, and in use when it is told to end"
in_memory
modprobe zonefs
mkzonefs -f "$disk" >/dev/null
mount -t zonefs "$disk" /tmp/fs
kill "$server"
wait "$server"
grep -q "and is gone" /tmp/disk.err || { cat /tmp/disk.err; exit 1; }
zvb detach disk --force >/tmp/lost 2>&1 || { cat /tmp/lost; exit 1; }
umount /tmp/fs
equal "the device, and what is written of it" "$(ls /dev/vduse)$(ls /run/zvb)" control
EOS
}
