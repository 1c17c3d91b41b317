# Functions for scenarios with disks that the guest attaches to its own kernel. Reads lib.sh first.

# What the attached disk is called: several can be attached at a time, in shells of their own.
name=disk

# start: serves the image at $image, until it is attached; the block device is $disk then. What it says is in
# /tmp/$name.out and /tmp/$name.err, and its control socket is /tmp/$name.control.
start() {
    # What an earlier one said is not what this one says.
    rm -f "/tmp/$name.out"
    touch "/tmp/$name.out"
    zvb attach "$image" --name "$name" --queues "$vcpus" --control "/tmp/$name.control" >"/tmp/$name.out" \
        2>"/tmp/$name.err" &
    server=$!
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        disk=$(sed -n 's/^Attached as \([^;]*\);.*/\1/p' "/tmp/$name.out")
        [ -z "$disk" ] || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat "/tmp/$name.out" "/tmp/$name.err"
    return 1
}

# attach OPTION...: a fresh disk, made by `zvb create` with these options.
attach() {
    image=/tmp/$name.zvb
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
    local at=/tmp/$name
    blkzone report "$disk" | closed >"$at.inside"
    zvb ctl --control "$at.control" stats >"$at.statistics"
    zvb detach "$name" --quiet
    wait "$server"
    equal "devices of this name" "$(ls /dev/vduse | grep -cx "$name" || true)" 0
    zvb check "$image" >"$at.check" || { cat "$at.check"; exit 1; }
    rm -f "$at.serve"
    zvb serve "$image" --socket-path "$at.s" >"$at.serve" 2>&1 &
    server=$!
    while ! grep -qs krun "$at.serve"; do kill -0 "$server"; sleep 0.1; done
    zvb report --socket-path "$at.s" --format blkzone >"$at.outside"
    kill "$server"
    wait "$server"
    [ -s "$at.inside" ]
    diff -u --label "blkzone report, open zones closed" --label "zvb report of the image" "$at.inside" "$at.outside"
}

# detach: the same, and the disk is not wanted any more.
detach() {
    take_back
    rm -f "$image"
}
