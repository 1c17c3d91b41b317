# attached: btrfs, f2fs, zoned xfs; servers, then the guest killed
vm=own
needs_in_guest "$zvb" "$here"/guest/{attached,filesystems}.sh
# Here, on ext4, lie the images of the disks that the guest attaches. What it had not synced is gone when it dies.
disk below --size 1G --zone-size 64M --model host-aware

# attached [SECONDS]: runs the script on standard input inside, with what follows.
attached() {
    {
        cat <<'EOS'
. "$(command -v attached.sh)"
modprobe -a ext4 vduse virtio_vdpa

# on S: this shell is about the disk of that file system.
on() { name=$1 image=/tmp/below/$1.zvb; }

# started S: its disk is attached.
started() {
    start
    declare -g "$1=$disk"
}

options() {
    case $1 in
        btrfs) echo --size 512M --zone-size 4M --max-open 24 --max-active 28 ;;
        f2fs) echo --size 512M --zone-size 8M --conventional 8 --max-open 8 ;;
        xfs) echo --size 832M --zone-size 16M --conventional 20 --max-open 16 --max-active 20 ;;
    esac
}

# through S: filled, with its server killed under load, taken back and attached again.
through() {
    local sum load kills
    on "$1"
    zvb create "$image" --quiet $(options "$1")
    started "$1"
    make "$1"
    mounted "$1"
    filled "$1"
    sum=$(tree_sum "$1")
    load "$1" servers &
    load=$!
    for ((kills = 0; kills < 6; kills++)); do
        sleep "0.$((RANDOM % 8 + 1))"
        kill -0 "$load" || { echo "the load came to an end"; exit 1; }
        killed
    done
    touch "/tmp/enough.$1"
    wait "$load"
    rm "/tmp/enough.$1"
    [ "$(wc -l <"/tmp/synced.$1")" -ge 6 ] || { echo "the load did not get on"; exit 1; }

    # In use, it is not taken away.
    if zvb detach "$name" >"/tmp/$name.refused" 2>&1; then echo "it was in use"; exit 1; fi
    grep -q "in use" "/tmp/$name.refused" || { cat "/tmp/$name.refused"; exit 1; }
    kill "$server"
    wait "$server"
    grep -q "is in use, and stays" "/tmp/$name.err" || { cat "/tmp/$name.err"; exit 1; }
    start
    unmounted "$1"

    take_back
    started "$1"
    mounted "$1"
    synced_is_whole "$1"
    equal "the tree on the disk that was attached again" "$(tree_sum "$1")" "$sum"
    sound "$1"
}

# back S: after the death of the guest.
back() {
    on "$1"
    zvb check "$image" >"/tmp/$name.check" || { cat "/tmp/$name.check"; exit 1; }
    started "$1"
    mounted "$1"
    synced_is_whole "$1"
    equal "the tree after the guest was killed" "$1: $(tree_sum "$1")" "$(grep "^$1: " <<<"$trees")"
    sound "$1"
    unmounted "$1"
    take_back
}
EOS
        cat
    } | inside_files "$@"
}

scenario() {
    local trees system
    choose_systems btrfs f2fs xfs
    attached 600 <<'EOS'
mke2fs -q -t ext4 "$below"
mkdir -p /tmp/below
mount "$below" /tmp/below
each through
EOS
    for system in $systems; do note "attached, $system: its server killed 6 times; taken back, attached again, checked"; done

    # The guest dies under load, and the processes that serve its disks with it.
    trees=$(attached <<<"each tree_sum")
    attached <<<"for system in \$systems; do in_background \$system load guest; done"
    until_synced guest 25
    vm_kill
    vm_start
    {
        tell_synced guest
        cat <<EOS
trees="$trees"
mkdir -p /tmp/below
mount "\$below" /tmp/below
each back
umount /tmp/below
EOS
    } | attached 600
    for system in $systems; do note "attached, $system: the guest killed; checked"; done
}
