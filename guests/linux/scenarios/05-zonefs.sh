# zonefs: files, appends, sizes right after a remount
disk disk --size 256M --zone-size 16M --zone-capacity 10M --conventional 2 --max-open 6

scenario() {
    inside <<'EOS'
modprobe zonefs
mkzonefs -f -o aggr_cnv "$disk" >/dev/null
mkdir -p /tmp/fs
mount -t zonefs "$disk" /tmp/fs
cd /tmp/fs
sum() { sha256sum | cut -c1-16; }
sizes() { stat -c %s seq/{0..7} | paste -sd' '; }
append() { dd if="$1" of="$2" bs="$3" oflag=direct,append,dsync conv=notrunc status=none; }
equal "sequential files" "$(ls seq | wc -l)" 14
equal "conventional file" "$(stat -c %s cnv/0)" $((16 << 20))
equal "capacity, as the largest size" "$(stat -c %b seq/1)" $((10 << 11))

head -c 10M /dev/urandom >/tmp/data
append /tmp/data seq/0 128k
head -c 1M /tmp/data >/tmp/part
append /tmp/part seq/1 64k
append /tmp/part seq/1 4k
append /tmp/part seq/2 256k
dd if=/tmp/part of=seq/3 bs=64k oflag=direct conv=notrunc status=none
equal "sizes" "$(sizes)" "10485760 2097152 1048576 1048576 0 0 0 0"
fails dd if=/tmp/part of=seq/2 bs=4k count=1 seek=7 oflag=direct conv=notrunc
fails append /tmp/part seq/0 4k
truncate -s 0 seq/3
truncate -s 10M seq/4
dd if=/tmp/data of=cnv/0 bs=1M count=2 seek=3 conv=notrunc,fsync status=none
cd /
umount /tmp/fs
mount -t zonefs "$disk" /tmp/fs
cd /tmp/fs
equal "sizes after a remount" "$(sizes)" "10485760 2097152 1048576 0 10485760 0 0 0"
equal "a full zone's data" "$(sum <seq/0)" "$(sum </tmp/data)"
equal "appended twice" "$(sum <seq/1)" "$(cat /tmp/part /tmp/part | sum)"
equal "appended once" "$(sum <seq/2)" "$(sum </tmp/part)"
equal "finished, so zeroes" "$(sum <seq/4)" "$(head -c 10M /dev/zero | sum)"
equal "the conventional file" "$(dd if=cnv/0 bs=1M skip=3 count=2 status=none | sum)" "$(head -c 2M /tmp/data | sum)"
append /tmp/part seq/2 64k
equal "appended after the remount" "$(stat -c %s seq/2)" 2097152
cd /
umount /tmp/fs
mount -t zonefs -o explicit-open "$disk" /tmp/fs
exec 4>>/tmp/fs/seq/5
equal "opened with its file" "$(zone 7 cond)" oe
exec 4>&-
equal "and closed with it" "$(zone 7 cond)" em
umount /tmp/fs
equal "zones" "$(conditions 1 8)" "nw fu cl cl em fu em em"
EOS
    note "made and written: $(requests disk)"
}
