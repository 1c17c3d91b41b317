# a host-aware disk is a plain disk to Linux, and works as one
disk disk --size 192M --zone-size 8M --model host-aware --conventional 1 --max-open 4

scenario() {
    local before after
    inside 600 <<'EOS'
equal "what Linux takes it for" "$(queue zoned)" none
modprobe ext4
mke2fs -q -t ext4 "$disk"
mkdir -p /tmp/fs
mount "$disk" /tmp/fs
fio --name=files --directory=/tmp/fs --rw=randwrite --bs=4k-64k --bsrange=4k-64k --size=24M --io_size=12M --nrfiles=4 \
    --numjobs=2 --ioengine=io_uring --iodepth=8 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 \
    --group_reporting --minimal >/tmp/fio 2>&1 || { cat /tmp/fio; exit 1; }
cp -a /usr/sbin /tmp/fs/tree
(cd /tmp/fs/tree && find . -type f -exec sha256sum {} + | sort) >/tmp/before
umount /tmp/fs
e2fsck -f -n "$disk" >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
mount "$disk" /tmp/fs
(cd /tmp/fs/tree && find . -type f -exec sha256sum {} + | sort) >/tmp/after
cmp /tmp/before /tmp/after
umount /tmp/fs
# Anywhere, in any order, and again.
fio --name=raw --filename="$disk" --rw=randwrite --bs=4k-256k --bsrange=4k-256k --io_size=24M --ioengine=io_uring \
    --iodepth=8 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --minimal >/tmp/fio 2>&1 ||
    { cat /tmp/fio; exit 1; }
# Zeroes by a command of their own.
head -c 8M /dev/urandom >/tmp/data
dd if=/tmp/data of="$disk" bs=1M oflag=direct conv=notrunc status=none
blkdiscard -z -o 1M -l 6M "$disk"
cmp <(dd if="$disk" bs=1M count=8 iflag=direct status=none) \
    <(head -c 1M /tmp/data; head -c 6M /dev/zero; tail -c 1M /tmp/data)
EOS
    before=$(stat -c %b "$(image disk)")
    inside <<<'blkdiscard "$disk"'
    after=$(stat -c %b "$(image disk)")
    echo "the image before a discard of all, and after: $before and $after blocks"
    [ $((after + (8 << 11))) -lt "$before" ] || { echo "nothing was discarded"; return 1; }
}

# Our own driver sees the zones that Linux does not.
afterwards() {
    local report
    report=$("$zvb" report --socket-path "$(socket disk)" --format blkzone)
    [ "$(wc -l <<<"$report")" = 24 ]
    [ "$(grep -c 'SEQ_WRITE_PREFERRED' <<<"$report")" = 23 ]
}
