# writes at the pointer and off it, reads past it, capacity
disk disk --size 128M --zone-size 8M --zone-capacity 6M --conventional 1

scenario() {
    inside <<'EOS'
# put ZONE BLOCK COUNT FILE: blocks of 4 KiB from the start of a file, in one piece around the page cache.
put() {
    dd if="$4" of="$disk" bs=$(($3 * 4096)) count=1 seek=$((($1 * 2048 + $2) * 4096)) \
        oflag=direct,seek_bytes conv=notrunc status=none
}
get() {
    dd if="$disk" bs=$(($3 * 4096)) count=1 skip=$((($1 * 2048 + $2) * 4096)) iflag=direct,skip_bytes status=none
}
sum() { sha256sum | cut -c1-16; }
head -c 6M /dev/urandom >/tmp/data
head -c 6M /dev/urandom >/tmp/other

# The first write to a zone goes to the disk wherever it is: Linux knows no pointer of it yet. The disk refuses it.
fails put 3 5 1 /tmp/other
equal "an empty zone after a refused write" "$(conditions 3 1) $(zone 3 wptr)" "em 0"
equal "its data" "$(get 3 0 16 | sum)" "$(head -c 65536 /dev/zero | sum)"
put 3 0 1 /tmp/other
equal "the same zone, at its pointer" "$(zone 3 wptr)" 8

put 1 0 4 /tmp/data
equal pointer "$(zone 1 wptr)" 32
equal data "$(get 1 0 4 | sum)" "$(head -c 16384 /tmp/data | sum)"

# Above, below, and at the start again.
fails put 1 5 1 /tmp/other
fails put 1 3 1 /tmp/other
fails put 1 0 4 /tmp/other
equal "pointer after refused writes" "$(zone 1 wptr)" 32
equal "data after refused writes" "$(get 1 0 4 | sum)" "$(head -c 16384 /tmp/data | sum)"

# What was not written reads as zeroes: past the pointer, past the capacity, and across the pointer.
equal "past the pointer" "$(get 1 4 16 | sum)" "$(head -c 65536 /dev/zero | sum)"
equal "past the capacity" "$(get 1 1536 512 | sum)" "$(head -c 2M /dev/zero | sum)"
equal "across the pointer" "$(get 1 2 4 | sum)" \
    "$({ tail -c +8193 /tmp/data | head -c 8192; head -c 8192 /dev/zero; } | sum)"

# Up to the capacity, and no further.
tail -c +16385 /tmp/data >/tmp/rest
put 1 4 1532 /tmp/rest
equal "full at its capacity" "$(conditions 1 1)" fu
equal "all of it" "$(get 1 0 1536 | sum)" "$(sum </tmp/data)"
fails put 1 1536 1 /tmp/other
put 2 0 1535 /tmp/other
fails put 2 1535 2 /tmp/other
equal "a write across the capacity" "$(zone 2 wptr)" $((1535 * 8))
put 2 1535 1 /tmp/other
equal "its last block" "$(conditions 2 1)" fu

# A conventional zone is written anywhere.
put 0 100 8 /tmp/data
put 0 50 8 /tmp/data
put 0 100 8 /tmp/other
equal conventional "$(get 0 100 8 | sum)" "$(head -c 32768 /tmp/other | sum)"

# Zeroes by a command of their own. (The kernel writes none itself when the disk says that it did.)
blkdiscard -z -o $((102 * 4096)) -l 16384 "$disk"
equal "zeroes written" "$(get 0 100 8 | sum)" \
    "$({ head -c 8192 /tmp/other; head -c 16384 /dev/zero; head -c 32768 /tmp/other | tail -c 8192; } | sum)"

# After a reset the old data is gone.
blkzone reset -o $((1 * 16384)) -c 1 "$disk"
equal "reset" "$(get 1 0 1536 | sum)" "$(head -c 6M /dev/zero | sum)"
put 1 0 16 /tmp/other
equal "written again" "$(get 1 0 16 | sum)" "$(head -c 65536 /tmp/other | sum)"
equal "and not more" "$(get 1 16 16 | sum)" "$(head -c 65536 /dev/zero | sum)"
EOS
    # Of these six writes. The others Linux itself refuses, from its own write pointers.
    refused=$(with_errors disk write)
    [ "$refused" -ge 1 ] || { statistics disk; echo "no write off the pointer has reached the disk"; return 1; }
    note "writes off the pointer: $refused refused by the disk, $((6 - refused)) by Linux before they reached it"
}

# Nobody stands before the disk here: every way to write off a pointer, past a capacity, into a full zone.
afterwards() {
    "$zvb" conform --socket-path "$(socket disk)" --destroy --only 53,58,59,63,72,93 >"$work/conform" ||
        { cat "$work/conform"; return 1; }
    cat "$work/conform"
    [ "$(grep -c ' pass ' "$work/conform")" = 6 ]
}
