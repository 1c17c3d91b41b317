# Functions for scenarios with disks that the guest attaches to its own kernel. Reads lib.sh first.

# start: serves the image at $image, until it is attached; the block device is $disk then.
start() {
    # What an earlier one said is not what this one says.
    rm -f /tmp/attach.out
    touch /tmp/attach.out
    zvb attach "$image" --name disk --queues "$vcpus" --control /tmp/control >/tmp/attach.out 2>/tmp/attach.err &
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

# A disk that is taken back closes its open zones; those without data are empty then.
closed() {
    sed -E '/zcond: *[23]\(o[ie]\)/ {
        s/zcond: *[23]\(o[ie]\)/zcond: 4(cl)/
        /wptr 0x000000 /s/zcond: 4\(cl\)/zcond: 1(em)/
    }'
}

# take_back: takes the disk back, in order. What the kernel said of it last, the image says too, line by line.
take_back() {
    blkzone report "$disk" | closed >/tmp/inside
    zvb ctl --control /tmp/control stats >/tmp/statistics
    zvb detach disk --quiet
    wait "$server"
    equal "the device" "$(ls /dev/vduse)" control
    zvb check "$image" >/tmp/check || { cat /tmp/check; exit 1; }
    rm -f /tmp/serve.out
    zvb serve "$image" --socket-path /tmp/s >/tmp/serve.out 2>&1 &
    server=$!
    while ! grep -qs krun /tmp/serve.out; do kill -0 "$server"; sleep 0.1; done
    zvb report --socket-path /tmp/s --format blkzone >/tmp/outside
    kill "$server"
    wait "$server"
    [ -s /tmp/inside ]
    diff -u --label "blkzone report, open zones closed" --label "zvb report of the image" /tmp/inside /tmp/outside
}

# detach: the same, and the disk is not wanted any more.
detach() {
    take_back
    rm -f "$image"
}

tree_sums() { (cd /tmp/fs/tree && find . -type f -exec sha256sum {} + | sort -k2 | sha256sum); }

# kept: the file system on $disk, which `mounted` mounts at /tmp/fs and `checked` finds sound, is filled with a tree of
# files, and is whole and sound once the disk was taken back and attached again.
kept() {
    local sums n
    mkdir -p /tmp/fs
    mounted
    mkdir /tmp/fs/tree
    cp -a /usr/sbin /tmp/fs/tree
    for ((n = 0; n < 200; n++)); do head -c $((n * 97)) /dev/urandom >/tmp/fs/tree/$n; done
    sync -f /tmp/fs
    sums=$(tree_sums)
    umount /tmp/fs
    take_back
    start
    mounted
    equal "the tree on the disk that was attached again" "$(tree_sums)" "$sums"
    checked
    umount /tmp/fs
    detach
}
