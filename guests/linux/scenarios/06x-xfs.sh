# zoned xfs: filled, repaired, remounted; guest and server killed
vm=own
# Metadata and log lie in the conventional zones, 320 MiB; the rest is its zoned part.
disk disk --size 832M --zone-size 16M --conventional 20 --max-open 16 --max-active 20

mounted='
modprobe xfs
mkdir -p /tmp/fs
mount "$disk" /tmp/fs
'
# xfs_scrub looks while it is mounted, and xfs_repair, which changes nothing here, when it is not. A file system
# that was not unmounted has been mounted since, so its log is clean.
checked='
sync -f /tmp/fs
/opt/xfs/xfs_scrub -n /tmp/fs >/tmp/scrub 2>&1 || { cat /tmp/scrub; dmesg | tail -5; exit 1; }
umount /tmp/fs
/opt/xfs/xfs_repair -n "$disk" >/tmp/repair 2>&1 || { cat /tmp/repair; exit 1; }
mount "$disk" /tmp/fs
'

scenario() {
    local tree status=0
    tree=$(inside 600 <<EOS
[ ! -e /opt/xfs/missing ] || { cat /opt/xfs/missing; exit 77; }
[ "\$kernel" != 6.12 ] || { echo "zoned XFS came with Linux 6.15"; exit 77; }
/opt/xfs/mkfs.xfs -f "\$disk" >/tmp/mkfs 2>&1 || { cat /tmp/mkfs; exit 1; }
grep -q "zoned=1" /tmp/mkfs || { cat /tmp/mkfs; exit 1; }
modprobe xfs
mkdir -p /tmp/fs
mount "\$disk" /tmp/fs || { dmesg | tail -5; exit 1; }
mkdir /tmp/fs/tree
cp -a /usr/sbin /usr/share/bash-completion /tmp/fs/tree
for ((i = 0; i < 300; i++)); do head -c \$((i * 97)) /dev/urandom >/tmp/fs/tree/\$i; done
$checked
$tree_sums
EOS
    ) || status=$?
    [ "$status" = 0 ] || { echo "$tree"; return "$status"; }
    echo "the tree: $tree"
    vm_stop
    case $(requests disk) in "0 appends"*) echo "no appends: $(requests disk)"; return 1 ;; esac
    note "made and filled with a tree of files: $(requests disk)"
    vm_start
    inside <<EOS
$mounted
equal "the tree after a shutdown" "\$($tree_sums)" "$tree"
$checked
umount /tmp/fs
EOS

    # The guest dies under load.
    load guest
    until_synced guest 25
    vm_kill
    vm_start
    check_synced guest "$tree"

    # The server dies under load; the guest can only hang then.
    load server
    until_synced server 25
    server_kill disk
    vm_kill
    server_start disk
    vm_start
    check_synced server "$tree"
}
