# a zoned NVMe disk of a host: closed, and told of alike
vm=own
needs_in_guest "$zvb" "$appends"
zns_disk

scenario() {
    inside 400 <<'EOS'
modprobe nvme
dev=/dev/nvme0n1
for ((tries = 0; tries < 600; tries++)); do
    [ ! -b "$dev" ] || break
    sleep 0.1
done
limits=$(cat /sys/block/nvme0n1/queue/{zoned,max_open_zones,max_active_zones} | paste -sd' ')
equal "the disk" "$limits" "host-managed 3 4"

serve() {
    rm -f /tmp/serve.out
    zvb serve "$dev" --socket-path /tmp/s "$@" >/tmp/serve.out 2>&1 &
    server=$!
    while ! grep -qs krun /tmp/serve.out; do kill -0 "$server"; sleep 0.1; done
}
words() { sed -E 's/.*zcond: *[0-9]+\(([a-z]+)\).*/\1/' | paste -sd' '; }
host() { blkzone report -c 8 "$dev" | words; }
# are WHAT CONDITIONS: of the first 8 zones, as the host says, and as a guest of the server would hear.
are() {
    echo "$1: $2"
    equal "$1, on the disk" "$(host)" "$2"
    equal "$1, in the report" "$(zvb report --socket-path /tmp/s --format blkzone --count 8 | words)" "$2"
}
manage() { zvb "$1" --socket-path /tmp/s --zone "$2" --quiet; }

echo "-- a closed zone without data is active to NVMe, and taken over as an empty one"
blkzone open -o 0 -c 1 "$dev"
blkzone close -o 0 -c 1 "$dev"
equal "before" "$(host)" "cl em em em em em em em"
serve
are "begun" "em em em em em em em em"

echo "-- as many zones as may be active are opened and closed, and take no room from others"
for zone in 2 3 4 5; do
    manage open "$zone"
    manage close "$zone"
done
are "closed" "em em em em em em em em"
manage open 6
head -c 65536 /dev/urandom >/tmp/data
for zone in 1 7; do zvb append --socket-path /tmp/s --zone "$zone" --quiet </tmp/data; done
are "written" "em oi em em em em oe oi"

echo "-- the server is killed, and another goes on"
kill -9 "$server"
wait "$server" 2>/dev/null || true
equal "left" "$(host)" "em oi em em em em oe oi"
serve
are "after a kill" "em cl em em em em em cl"
for zone in 1 7; do cmp /tmp/data <(zvb read --socket-path /tmp/s --zone "$zone" --count 1 --quiet); done

echo "-- a server that ends leaves nothing open, nor closed and empty"
manage open 3
are "open" "em cl em oe em em em cl"
stop() { kill "$server"; wait "$server"; }
stop
equal "ended" "$(host)" "em cl em em em em em cl"
blkzone reset "$dev"

# The pointers, too; where there is none, what is said in its place may differ.
comparable() { sed -E '/zcond:1[345]/s/wptr 0x[0-9a-f]+/wptr -/'; }
agree() {
    equal "$1: the reports" "$(zvb report --socket-path /tmp/s --format blkzone | comparable)" \
        "$(blkzone report "$dev" | comparable)"
}
refused() {
    if "${@:2}" >/tmp/said 2>&1; then echo "this succeeded: ${*:2}"; exit 1; fi
    grep -q -- "$1" /tmp/said || { cat /tmp/said; exit 1; }
}
mount -t tracefs none /sys/kernel/tracing 2>/dev/null || true
trace=/sys/kernel/tracing
# natively WHAT APPENDS WRITES COMMAND...: sends the disk so many appends and writes that pass the block layer.
natively() {
    local what=$1 appends=$2 writes=$3
    shift 3
    echo >$trace/trace
    echo 1 >$trace/events/nvme/nvme_setup_cmd/enable
    "$@"
    echo 0 >$trace/events/nvme/nvme_setup_cmd/enable
    equal "$what: appends" "$(grep -c nvme_cmd_zone_append $trace/trace)" "$appends"
    equal "$what: writes" "$(grep -c '(nvme_cmd_write' $trace/trace)" "$writes"
}

for name in nvme0n1 nvme0n2; do
    dev=/dev/$name generic=/dev/ng${name#nvme}
    echo "-- appends to $dev go to it as such"
    zvb info "$dev" | grep "native append  *can be had, through $generic"
    zvb info --json "$dev" | grep "\"native_append\": *\"$generic\""
    refused "use $dev" zvb serve "$generic" --socket-path /tmp/s
    refused "use $dev" zvb info "$generic"
    refused "needs io_uring" zvb serve "$dev" --socket-path /tmp/s --append native --engine sync
    serve --append native --queues 2 --json
    grep '"append": *"native"' /tmp/serve.out
    grep "appends go to it natively, through $generic" /tmp/serve.out
    natively "two queues" 300 0 appends /tmp/s 2 300 16 2 0
    agree "two queues"
    natively "writes between" 100 2 appends /tmp/s 3 102 1 1 51
    # Behind a write in flight appends are writes.
    appends /tmp/s 3 200 16 1 7
    agree "writes between"
    zvb write --socket-path /tmp/s --zone 2 --quiet </tmp/data
    zvb append --socket-path /tmp/s --zone 2 --quiet </tmp/data
    agree "a write"
    head -c 4M /dev/urandom >/tmp/zone
    zvb append --socket-path /tmp/s --zone 4 --depth 1 --quiet </tmp/zone
    cmp /tmp/zone <(zvb read --socket-path /tmp/s --zone 4 --count 1 --quiet)
    agree "a full zone"

    echo "-- somebody else finishes a zone, and an append to it fails once"
    zvb append --socket-path /tmp/s --zone 5 --quiet </tmp/data
    blkzone finish -f -o $((5 * 8192)) -c 1 "$dev"
    refused "I/O error" zvb append --socket-path /tmp/s --zone 5 --quiet /tmp/data
    grep "NVMe status 1b9h: the zone is full" /tmp/serve.out
    agree "a zone that others finished"
    cmp -n 65536 /tmp/data <(zvb read --socket-path /tmp/s --zone 5 --length 128 --quiet)

    echo "-- appends are in flight when the server is killed"
    appends /tmp/s 6 4000 32 2 0 >/tmp/killed 2>&1 &
    client=$!
    until blkzone report -o $((6 * 8192)) -c 1 "$dev" | grep '(oi)' >/dev/null; do kill -0 "$client"; done
    kill -9 "$server"
    kill -9 "$client"
    wait "$server" "$client" 2>/dev/null || true
    serve --append native --queues 2
    agree "after a kill"
    natively "after a kill" 300 0 appends /tmp/s 6 300 16 2 0
    zvb reset --socket-path /tmp/s --all --quiet
    agree "a reset of all"
    zvb conform --socket-path /tmp/s --destroy >/tmp/conform || { grep FAIL /tmp/conform; exit 1; }
    tail -1 /tmp/conform
    agree "all that a device owes its driver"
    zvb reset --socket-path /tmp/s --all --quiet
    stop
    echo "-- and one after the other, as writes, where that is not asked for"
    serve --queues 2
    grep "go to the disk ordered" /tmp/serve.out
    natively "ordered" 0 300 appends /tmp/s 2 300 16 2 0
    agree "ordered"
    zvb reset --socket-path /tmp/s --all --quiet
    stop
done
EOS
}
