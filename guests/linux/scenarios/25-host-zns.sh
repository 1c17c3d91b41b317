# a zoned NVMe disk of a host: closed, and told of alike
vm=own
needs_in_guest "$zvb"
zns_disk

scenario() {
    inside 200 <<'EOS'
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
    zvb serve "$dev" --socket-path /tmp/s >/tmp/serve.out 2>&1 &
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
kill "$server"
wait "$server"
equal "ended" "$(host)" "em cl em em em em em cl"
EOS
}
