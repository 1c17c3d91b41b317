# the guide's lines that start a guest with QEMU, run
once=kernel

# told FOLDER LINE: the guest that was started there said this of its disk.
told() {
    # To its end: who stops at a match ends what writes to it.
    tr -d '\r' <"$1/said" >"$1/lines"
    grep -qxF -- "$2" "$1/lines" || { cat "$1/said"; echo "this was not said: $2"; return 1; }
}

scenario() {
    local PATH=$PATH folder=$work/$id tree=$work/$id/tree options started printed process
    mkdir -p "$tree" "$folder/started" "$folder/printed"
    PATH=$(programs "$folder/bin")
    cp "$parts/busybox" "$tree/"
    cp -r "$parts/linux-$kernel/modules" "$tree/"
    cp "$here/guest/guide-init" "$tree/init"
    (cd "$tree" && find . | "$parts/busybox" cpio -o -H newc 2>/dev/null) >"$folder/initrd"
    options="-kernel $parts/linux-$kernel/vmlinuz -initrd $folder/initrd -append console=ttyS0 -display none -serial stdio"
    options+=" -nodefaults -no-reboot"

    # A guest with the disk, as linux-guests.md starts it.
    started=$(page linux-guests started)
    (
        cd "$folder/started"
        trap 'kill $(jobs -p) 2>/dev/null' EXIT
        # shellcheck disable=SC1090 # what it is is known
        . /dev/stdin <<<"$started"
    ) >"$folder/started/said" 2>&1 </dev/null &
    process=$!

    # A guest with the lines that the server prints; that attach.md has the same is seen to by `cargo test`.
    (
        cd "$folder/printed"
        tied zvb serve mem:64M --zone-size 4M --socket-path s >serving 2>&1 </dev/null &
        trap 'kill $!' EXIT
        until grep -qs krun serving; do kill -0 $! || { cat serving; exit 1; }; sleep 0.1; done
        printed=$(sed -n 's/^ *\(qemu-system-x86_64 .*\)/\1/p' serving)
        eval "$printed $options"
    ) >"$folder/printed/said" 2>&1 </dev/null
    told "$folder/printed" "guide: host-managed, 16 zones, 64 MiB, 1 queues"
    wait "$process" || true
    told "$folder/started" "guide: host-managed, 128 zones, 512 MiB, 2 queues"

    # What there is to run.
    (set -eu; eval "$(page linux-guests listed)") >"$folder/listed"
    grep -q "^ *$id  ${title[$id]}" "$folder/listed"
}
