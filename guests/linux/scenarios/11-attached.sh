# attached to the guest's kernel (VDUSE): 1 to 6, and kills
vm=own
needs_in_guest "$zvb" "$here/guest/attached.sh"

prologue='. "$(command -v attached.sh)"'

# attached FILE: the scenario in FILE, inside, on a disk that the guest attaches to itself.
attached() (
    eval "through_$(declare -f inside)"
    disk() { options=${*:2}; }
    needs_in_guest() { :; }
    inside() {
        { printf '%s\nattach %s\n' "$prologue" "$options"; cat; printf 'detach\n'; } | through_inside 400
    }
    . "$1"
    scenario
)

scenario() {
    local file
    for file in "$here"/scenarios/0[1-5]-*.sh; do
        echo "-- $(basename "$file")"
        (attached "$file")
    done

    echo "-- names, and refusals"
    { echo "$prologue"; cat <<'EOS'; } | inside
attach --size 64M --zone-size 4M
fails zvb attach mem:64M --name disk
grep -q "attached already" /tmp/fails
zvb attach mem:64M --name other --zone-size 4M >/tmp/other.out 2>&1 &
other=$!
while ! grep -q Attached /tmp/other.out; do kill -0 "$other"; sleep 0.1; done
equal "devices" "$(ls /dev/vduse | paste -sd' ')" "control disk other"
kill "$other"
wait "$other"
equal "devices" "$(ls /dev/vduse | paste -sd' ')" "control disk"
zvb create /tmp/odd.zvb --size 60M --zone-size 3M --force --quiet
fails zvb attach /tmp/odd.zvb
grep -q "power of two" /tmp/fails
equal "what was refused is gone" "$(ls /dev/vduse | paste -sd' ')" "control disk"
detach
EOS

    echo "-- fio, while the server is killed"
    { echo "$prologue"; cat <<'EOS'; } | inside 400
attach --size 256M --zone-size 4M --zone-capacity 3M --max-open 6
fio --name=kills --filename="$disk" --zonemode=zbd --direct=1 --rw=write --bs=64k --size=60M --ioengine=io_uring \
    --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1 --thinktime=3000 --max_open_zones=4 \
    --minimal >/tmp/fio 2>&1 &
load=$!
kills=0
while kill -0 "$load" 2>/dev/null && [ "$kills" -lt 60 ]; do
    sleep 0.4
    killed
    kills=$((kills + 1))
done
wait "$load" || { cat /tmp/fio; dmesg | tail -5; exit 1; }
echo "fio went on through $kills kills"
[ "$kills" -ge 3 ]
equal "written once" "$(blkzone report "$disk" | grep -c 'wptr 0x000000')" $((64 - 15))
detach
EOS

    echo "-- btrfs, while the server is killed"
    { echo "$prologue"; cat <<'EOS'; } | inside 500
attach --size 512M --zone-size 4M --max-open 24 --max-active 28
modprobe btrfs
mkfs.btrfs -q -f -d single -m single "$disk" >/tmp/mkfs 2>&1 || { cat /tmp/mkfs; exit 1; }
mkdir -p /tmp/fs
mount "$disk" /tmp/fs
(
    for ((i = 0; i < 40; i++)); do
        head -c $((RANDOM * 12)) /dev/urandom >/tmp/fs/$i
        sync /tmp/fs/$i
        sha256sum /tmp/fs/$i >>/tmp/sums
    done
) &
load=$!
kills=0
while kill -0 "$load" 2>/dev/null && [ "$kills" -lt 60 ]; do
    sleep 0.4
    killed
    kills=$((kills + 1))
done
wait "$load"
echo "btrfs went on through $kills kills"
[ "$kills" -ge 3 ]
fails zvb detach disk
grep -q "in use" /tmp/fails
kill "$server"
wait "$server"
grep -q "is in use, and stays" /tmp/attach.err
start
umount /tmp/fs
mount "$disk" /tmp/fs
sha256sum --quiet -c /tmp/sums
btrfs scrub start -B /tmp/fs >/tmp/scrub 2>&1 || { cat /tmp/scrub; exit 1; }
grep -q "no errors found" /tmp/scrub || { cat /tmp/scrub; exit 1; }
equal "device errors" "$(btrfs device stats /tmp/fs | awk '{ n += $2 } END { print n + 0 }')" 0
umount /tmp/fs

# Nobody serves it, and somebody waits: both are seen to.
kill -9 "$server"
wait "$server" 2>/dev/null || true
dd if="$disk" of=/tmp/read bs=4096 count=1 iflag=direct status=none &
reader=$!
sleep 0.5
zvb detach disk --quiet
wait "$reader"
equal "the device" "$(ls /dev/vduse)" control
EOS
}
