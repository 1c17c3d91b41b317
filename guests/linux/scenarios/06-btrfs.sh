# btrfs: filled, scrubbed, remounted; guest killed, server killed
vm=own
disk disk --size 512M --zone-size 4M --zone-capacity 4M --max-open 24 --max-active 28

mounted='
modprobe btrfs
mkdir -p /tmp/fs
mount "$disk" /tmp/fs
'
checked='
sync -f /tmp/fs
btrfs scrub start -B /tmp/fs >/tmp/scrub 2>&1 || { cat /tmp/scrub; exit 1; }
grep -q "no errors found" /tmp/scrub || { cat /tmp/scrub; exit 1; }
equal "device errors" "$(btrfs device stats /tmp/fs | awk "{ n += \$2 } END { print n + 0 }")" 0
'

scenario() {
    # A tree of files, an orderly end, and back.
    tree=$(inside 600 <<EOS
modprobe btrfs
mkfs.btrfs -q -f -d single -m single "\$disk" >/tmp/mkfs 2>&1 || { cat /tmp/mkfs; exit 1; }
mkdir -p /tmp/fs
mount "\$disk" /tmp/fs
mkdir /tmp/fs/tree
cp -a /usr/sbin /usr/share/bash-completion /tmp/fs/tree
for ((i = 0; i < 300; i++)); do head -c \$((i * 97)) /dev/urandom >/tmp/fs/tree/\$i; done
$checked
$tree_sums
EOS
    ) || { echo "$tree"; return 1; }
    echo "the tree: $tree"
    vm_stop
    # btrfs writes data by zone append.
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
