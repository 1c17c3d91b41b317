# btrfs: filled, scrubbed, remounted; guest killed, server killed
vm=own
disk disk --size 512M --zone-size 4M --zone-capacity 4M --max-open 24 --max-active 28

# What each guest does first, and what must hold then.
mounted='
modprobe btrfs
mkdir -p /tmp/fs
mount "$disk" /tmp/fs
'
scrubbed='
sync -f /tmp/fs
btrfs scrub start -B /tmp/fs >/tmp/scrub 2>&1 || { cat /tmp/scrub; exit 1; }
grep -q "no errors found" /tmp/scrub || { cat /tmp/scrub; exit 1; }
equal "device errors" "$(btrfs device stats /tmp/fs | awk "{ n += \$2 } END { print n + 0 }")" 0
'
tree_sums='cd /tmp/fs/tree && find . -type f -exec sha256sum {} + | sort -k2 | sha256sum'

# Writes files without end; once one is synced, that and its checksum go to the console, which outlives the guest.
load() {
    inside <<EOS
$mounted
(
    mkdir -p /tmp/fs/$1
    for ((i = 0; i < 100000; i++)); do
        file=/tmp/fs/$1/\$i
        head -c \$((RANDOM * 12)) /dev/urandom >\$file
        sync \$file
        sum=\$(sha256sum \$file | cut -c1-64)
        printf '\nsynced %s %s\n' "\$file" "\$sum" >/dev/console
        # Room for more, and zones to be reclaimed.
        [ \$i -lt 20 ] || rm /tmp/fs/$1/\$((i - 20))
    done
) </dev/null >/dev/null 2>&1 &
EOS
}

# Waits until the load in directory $1 has synced at least $2 files.
until_synced() {
    local seconds
    for ((seconds = 0; seconds < 300; seconds++)); do
        [ "$(synced "$1" | wc -l)" -lt "$2" ] || return 0
        vm_runs || break
        sleep 1
    done
    echo "the load in $1 does not get on"
    return 1
}

# What the last guest that ran that load said was synced.
synced() {
    cat "$work"/console.*.log | tr -d '\r' | grep -E "^synced /tmp/fs/$1/[0-9]+ [0-9a-f]{64}\$" || true
}

# The last synced files are there and whole: those that the load cannot have removed.
check_synced() {
    local lines
    lines=$(synced "$1" | tail -15)
    [ "$(wc -l <<<"$lines")" = 15 ]
    inside <<EOS
$mounted
while read -r _ file sum; do
    equal "\$file" "\$(sha256sum "\$file" | cut -c1-64)" "\$sum"
done <<'EOF2'
$lines
EOF2
$scrubbed
equal "the tree" "\$($tree_sums)" "$tree"
umount /tmp/fs
EOS
    echo "synced files are whole, after the $1 was killed"
}

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
$scrubbed
$tree_sums
EOS
    ) || { echo "$tree"; return 1; }
    echo "the tree: $tree"
    vm_stop
    # btrfs writes data by zone append.
    "$zvb" ctl --control "$(control_socket disk)" stats | tee "$work/stats"
    grep -qE '^ +[0-9]+ +append +[1-9]' "$work/stats"
    vm_start
    inside <<EOS
$mounted
equal "the tree after a shutdown" "\$($tree_sums)" "$tree"
$scrubbed
umount /tmp/fs
EOS

    # The guest dies under load.
    load guest
    until_synced guest 25
    vm_kill
    vm_start
    check_synced guest

    # The server dies under load; the guest can only hang then.
    load server
    until_synced server 25
    server_kill disk
    vm_kill
    server_start disk
    vm_start
    check_synced server
}
