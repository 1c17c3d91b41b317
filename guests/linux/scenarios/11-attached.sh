# attached (VDUSE): 1 to 5 again, fio while its server is killed
vm=own
needs_in_guest "$zvb" "$here/guest/attached.sh"

prologue='. "$(command -v attached.sh)"'

# attached FILE: the scenario in FILE, inside, on a disk that the guest attaches to itself.
attached() (
    number=$(basename "$1")
    number=${number%%-*}
    eval "through_$(declare -f inside)"
    disk() { options=${*:2}; }
    needs_in_guest() { :; }
    # Its server is in the guest; what that had counted was written down before it ended.
    statistics() { through_inside <<<'cat /tmp/disk.statistics'; }
    note() { echo "attached, scenario $number: $*" >>"$cell/$id.notes"; }
    inside() {
        { printf '%s\nattach %s\n' "$prologue" "$options"; cat; printf 'detach\n'; } | through_inside 400
    }
    . "$1"
    scenario
)

scenario() {
    local file said status
    echo "-- what can not be, and why"
    { echo "$prologue"; cat <<'EOS'; } | inside
fails zvb attach mem:64M
says "load the module (modprobe vduse)"
modprobe -a vduse virtio_vdpa
fails zvb attach mem:64M --name a/b
says "is no name for a disk"
fails setpriv --reuid 65534 --clear-groups zvb attach mem:64M
says "only root may"
fails zvb attach /tmp/nothing.zvb
says "/tmp/nothing.zvb: there is no such file"
fails zvb detach disk
says "no disk is attached as disk; nothing is"
equal "what is written down" "$(ls /run/zvb)" ""
modprobe -r virtio_vdpa
fails zvb attach mem:64M
says "modprobe virtio_vdpa"
equal "what was refused is gone" "$(ls /dev/vduse)$(ls /run/zvb)" control
modprobe virtio_vdpa
EOS

    for file in "$here"/scenarios/0[1-5]-*.sh; do
        echo "-- $(basename "$file")"
        (attached "$file")
    done

    echo "-- names, and refusals"
    { echo "$prologue"; cat <<'EOS'; } | inside
attach --size 64M --zone-size 4M
fails zvb attach mem:64M --name disk
says "attached already"
zvb attach mem:64M --name other --zone-size 4M >/tmp/other.out 2>&1 &
other=$!
while ! grep -q Attached /tmp/other.out; do kill -0 "$other"; sleep 0.1; done
equal "devices" "$(ls /dev/vduse | paste -sd' ')" "control disk other"
kill "$other"
wait "$other"
equal "devices" "$(ls /dev/vduse | paste -sd' ')" "control disk"
fails zvb detach nobody
says "there are: disk"
zvb create /tmp/odd.zvb --size 60M --zone-size 3M --force --quiet
fails zvb attach /tmp/odd.zvb
says "power of two"
equal "what was refused is gone" "$(ls /dev/vduse | paste -sd' ')" "control disk"
detach
EOS

    echo "-- confined"
    { echo "$prologue"; cat <<'EOS'; } | inside
# walled PID HOW: every thread of the process has a filter of system calls (2), or none (0).
walled() {
    local task threads=0
    for task in /proc/"$1"/task/*/status; do
        equal "$task" "$(awk '/^Seccomp:/ { print $2 }' "$task")" "$2"
        threads=$((threads + 1))
    done
    echo "$threads threads, filter $2"
    [ "$threads" -ge 2 ]
}
attach --size 64M --zone-size 4M
dd if=/dev/urandom of="$disk" bs=64k count=8 oflag=direct 2>/dev/null
walled "$server" 2
equal "no new privileges" "$(awk '/^NoNewPrivs:/ { print $2 }' /proc/"$server"/status)" 1
# Killed, and taken over: as confined as before.
killed
dd if=/dev/urandom of="$disk" bs=64k count=8 seek=8 oflag=direct 2>/dev/null
walled "$server" 2
detach
zvb attach mem:64M --name open --no-sandbox >/tmp/open.out 2>&1 &
open=$!
while ! grep -q Attached /tmp/open.out; do kill -0 "$open"; sleep 0.1; done
walled "$open" 0
kill "$open"
wait "$open"

# With force, whoever uses it gets errors.
modprobe ext4
zvb attach mem:64M --model none --name plain >/tmp/plain.out 2>&1 &
plain=$!
while ! grep -q Attached /tmp/plain.out; do kill -0 "$plain"; sleep 0.1; done
disk=$(sed -n 's/^Attached as \([^;]*\);.*/\1/p' /tmp/plain.out)
mkfs.ext4 -q "$disk"
mkdir -p /tmp/plain
mount "$disk" /tmp/plain
fails zvb detach plain
says "is in use"
zvb detach plain --force --quiet
wait "$plain"
fails dd if=/dev/zero of=/tmp/plain/file bs=1M count=4 conv=fsync
umount -l /tmp/plain
equal "the device" "$(ls /dev/vduse)" control
EOS

    echo "-- signals on the way"
    { echo "$prologue"; cat <<'EOS'; } | inside 400
zvb create /tmp/attached.zvb --size 64M --zone-size 4M --force --quiet
image=/tmp/attached.zvb
for delay in 0 0.05 0.1 0.15 0.2 0.3 0.5; do
    zvb attach "$image" --name disk --queues "$vcpus" >/tmp/early.out 2>&1 &
    early=$!
    sleep "$delay"
    kill "$early"
    wait "$early" && status=0 || status=$?
    case $status in 0 | 143) ;; *) cat /tmp/early.out; exit 1 ;; esac
    equal "left after a signal at $delay s" "$(ls /dev/vduse)" control
done
for delay in 0.05 0.1 0.15 0.2 0.3 0.5; do
    zvb attach "$image" --name disk --queues "$vcpus" >/tmp/early.out 2>&1 &
    early=$!
    sleep "$delay"
    kill -9 "$early"
    wait "$early" 2>/dev/null || true
    start
    blkzone report "$disk" >/dev/null
    zvb detach disk --quiet
    wait "$server"
    equal "left after a kill at $delay s" "$(ls /dev/vduse)$(ls /run/zvb)" control
done
EOS

    echo "-- fio, while the server is killed"
    { echo "$prologue"; cat <<'EOS'; } | inside 400
attach --size 256M --zone-size 4M --zone-capacity 3M --max-open 6
kills=0
# Again, should it be over before there were enough kills.
for ((round = 1; round == 1 || kills < 3; round++)); do
    blkzone reset "$disk"
    fio --name=kills --filename="$disk" --zonemode=zbd --direct=1 --rw=write --bs=64k --size=60M --ioengine=io_uring \
        --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1 --thinktime=3000 --max_open_zones=4 \
        --minimal >/tmp/fio 2>&1 &
    load=$!
    while kill -0 "$load" 2>/dev/null && [ "$kills" -lt 60 ]; do
        sleep 0.4
        killed
        kills=$((kills + 1))
    done
    wait "$load" || { cat /tmp/fio; dmesg | tail -5; exit 1; }
    equal "written once" "$(blkzone report "$disk" | grep -c 'wptr 0x000000')" $((64 - 15))
done
echo "fio went on through $kills kills, in $((round - 1)) rounds"
detach
EOS
}
