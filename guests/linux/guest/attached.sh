# Functions for scenarios with disks that the guest attaches to its own kernel. Reads lib.sh first.

# start: serves the image at $image, until it is attached; the block device is $disk then.
start() {
    # What an earlier one said is not what this one says.
    rm -f /tmp/attach.out
    touch /tmp/attach.out
    zvb attach "$image" --name disk --queues "$vcpus" >/tmp/attach.out 2>/tmp/attach.err &
    server=$!
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        disk=$(sed -n 's/^Attached as \([^;]*\);.*/\1/p' /tmp/attach.out)
        [ -z "$disk" ] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat /tmp/attach.out /tmp/attach.err
    return 1
}

# attach OPTION...: a fresh disk, made by `zvb create` with these options.
attach() {
    image=/tmp/attached.zvb
    modprobe -a vduse virtio_vdpa
    zvb create "$image" --force --quiet "$@"
    start
}

# killed: the server is killed, and another goes on.
killed() {
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
    start
}

# detach: takes the disk back, in order. What the kernel said of it last, the image says too.
detach() {
    local said
    said=$(blkzone report "$disk" | awk '{ print $8 }' | paste -sd' ')
    zvb detach disk --quiet
    wait "$server"
    equal "the device" "$(ls /dev/vduse)" control
    zvb check "$image" >/tmp/check || { cat /tmp/check; exit 1; }
    zvb serve "$image" --socket-path /tmp/s >/tmp/serve.out 2>&1 &
    server=$!
    while ! grep -q krun /tmp/serve.out; do kill -0 "$server"; sleep 0.1; done
    equal "write pointers" "$(zvb report --socket-path /tmp/s --format blkzone | awk '{ print $8 }' | paste -sd' ')" "$said"
    kill "$server"
    wait "$server"
    rm -f "$image"
}
