# a disk served read-only: read, reported, and not changed
disk disk --size 64M --zone-size 8M --conventional 1
served disk --read-only

scenario() {
    sha256sum <"$(image disk)" >"$work/$id.before"
    inside <<'EOS'
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
EOS
}

afterwards() { sha256sum <"$(image disk)" | cmp - "$work/$id.before"; }
