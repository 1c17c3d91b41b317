# f2fs on zones: made, filled, remounted
disk disk --size 512M --zone-size 8M --conventional 8 --max-open 8

scenario() {
    inside 600 <<'EOS'
modprobe f2fs || exit 77
mkfs.f2fs -q -f -m "$disk" >/tmp/mkfs 2>&1 || { cat /tmp/mkfs; exit 1; }
mkdir -p /tmp/fs
mount -t f2fs -o mode=lfs "$disk" /tmp/fs
mkdir /tmp/fs/tree
cp -a /usr/sbin /tmp/fs/tree
for ((i = 0; i < 200; i++)); do head -c $((i * 97)) /dev/urandom >/tmp/fs/tree/$i; done
sums() { (cd /tmp/fs/tree && find . -type f -exec sha256sum {} + | sort -k2 | sha256sum); }
before=$(sums)
umount /tmp/fs
fsck.f2fs --dry-run "$disk" >/tmp/fsck 2>&1 || { tail -40 /tmp/fsck; exit 1; }
mount -t f2fs -o mode=lfs "$disk" /tmp/fs
equal "the tree after a remount" "$(sums)" "$before"
for round in 1 2 3; do
    head -c 40M /dev/urandom >/tmp/fs/big
    sync -f /tmp/fs
done
equal "the tree beside other writes" "$(sums)" "$before"
umount /tmp/fs
EOS
    note "made and filled: $(requests disk)"
}
