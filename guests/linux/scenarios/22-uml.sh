# User-Mode Linux: attaches, writes, reads, sees the disk grow
once=run

# on_uml OPTION...: a disk made by `zvb create` with these options, in User-Mode Linux. What is said there is in
# $folder/said.
on_uml() {
    local tries server uml
    rm -f "$folder/serving"
    (
        cd "$folder"
        "$zvb" create disk --force --quiet "$@"
        tied "$zvb" serve disk --socket-path s --control c --queues "$vcpus" >serving 2>log </dev/null
    ) &
    server=$!
    for ((tries = 0; tries < 1200; tries++)); do
        [ ! -s "$folder/serving" ] || break
        kill -0 "$server" || { cat "$folder/log"; return 1; }
        sleep 0.05
    done
    # As attach.md starts it.
    PATH=$path HOME_OF_UML=$folder root=$folder/root init=/init socket=$folder/s tied bash -c "$line" \
        >"$folder/said" 2>&1 </dev/null &
    uml=$!
    for ((tries = 0; tries < 1800; tries++)); do
        kill -0 "$uml" 2>/dev/null || break
        if grep -q '^uml: data' "$folder/said" && [ ! -e "$folder/grown" ]; then
            "$zvb" ctl --control "$folder/c" resize --size 96M --quiet
            touch "$folder/grown"
        fi
        sleep 0.1
    done
    kill "$uml" 2>/dev/null && { tail -20 "$folder/said"; return 1; }
    wait "$uml" || true
    kill "$server"
    wait "$server" || { cat "$folder/log"; return 1; }
    tr -d '\r' <"$folder/said" | sed -n 's/^uml: //p' >"$folder/lines"
}

# line TEXT: was said.
line() { grep -qxF -- "$1" "$folder/lines" || { cat "$folder/said" "$folder/log"; echo "this was not said: $1"; return 1; }; }

scenario() {
    local folder path line data
    # The path goes into the kernel's command line, and into the address of a socket.
    folder=$(mktemp -d "$work/uml.XXX")
    mkdir -p "$folder/root"
    cp "$parts/busybox" "$parts/uml/virtio_blk.ko" "$folder/root/"
    cp "$here/guest/uml-init" "$folder/root/init"
    path=$(programs "$folder/bin")
    line=$(page attach uml)

    on_uml --size 64M --zone-size 4M --model host-aware
    line "a disk, zones: none, of 131072 sectors"
    line "sectors: 196608"
    data=$(sed -n 's/^data: //p' "$folder/lines")
    [ ${#data} = 64 ]
    # What it wrote is what our own driver reads.
    (cd "$folder" && tied "$zvb" serve disk --socket-path s --quiet >serving 2>log </dev/null) &
    until "$zvb" id --socket-path "$folder/s" >/dev/null 2>&1; do
        kill -0 $! || { cat "$folder/log"; return 1; }
        sleep 0.1
    done
    "$zvb" read --socket-path "$folder/s" --sector $((100 * 128)) --length 8192 | sha256sum >"$folder/sum"
    grep -q "$data" "$folder/sum"
    kill $!
    wait $!

    # Debian's kernel for it has no zones, and must refuse a disk of them.
    on_uml --size 64M --zone-size 4M
    line "no disk: virtio_blk: zoned devices are not supported"
    rm -rf "$folder"
}
