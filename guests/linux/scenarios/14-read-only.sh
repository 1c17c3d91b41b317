# disks served and attached read-only: read, and not changed
needs_in_guest "$zvb" "$here/guest/attached.sh"
disk disk --size 64M --zone-size 8M --conventional 1
served disk --read-only

scenario() {
    sha256sum <"$(image disk)" >"$work/$id.before"
    inside <<'EOS'
. "$(command -v attached.sh)"
untouched() {
    equal model "$(queue zoned)" host-managed
    equal read-only "$(blockdev --getro "$disk")" 1
    equal conditions "$(conditions 0 8)" "nw em em em em em em em"
    equal "what is there" "$(dd if="$disk" bs=1M count=16 iflag=direct status=none | sha256sum)" \
        "$(head -c 16M /dev/zero | sha256sum)"
    # Nor when the driver lets it pass.
    blockdev --setrw "$disk" 2>/dev/null || true
    fails dd if=/dev/urandom of="$disk" bs=4k count=1 seek=2048 oflag=direct conv=notrunc
    for command in open finish reset; do fails blkzone $command -o 16384 -c 1 "$disk"; done
    equal "conditions after all that" "$(conditions 0 8)" "nw em em em em em em em"
}
untouched

# The same of one that is attached to the guest's own kernel.
image=/tmp/read-only.zvb
modprobe -a vduse virtio_vdpa
zvb create "$image" --size 64M --zone-size 8M --conventional 1 --quiet
before=$(sha256sum <"$image")
zvb attach "$image" --name read-only --read-only >/tmp/read-only.out 2>&1 &
server=$!
while ! grep -q Attached /tmp/read-only.out; do kill -0 "$server" || { cat /tmp/read-only.out; exit 1; }; sleep 0.1; done
disk=$(sed -n 's/^Attached as \([^;]*\);.*/\1/p' /tmp/read-only.out)
untouched
zvb detach read-only --quiet
wait "$server"
equal "the image" "$(sha256sum <"$image")" "$before"
EOS
}

afterwards() { sha256sum <"$(image disk)" | cmp - "$work/$id.before"; }
