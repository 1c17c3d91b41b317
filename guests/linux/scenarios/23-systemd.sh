# systemd: a socket that starts the server; ready, ended, again
once=kernel
needs_in_guest "$zvb" "$here"/../../dist/systemd/zvb@.{service,socket}

scenario() {
    inside 200 <<'EOS'
# As installed; but the root of a guest is read-only.
mkdir -p /run/systemd/system
# What a first boot would do to a system's files.
for unit in ldconfig systemd-hwdb-update systemd-journal-catalog-update systemd-update-done; do
    ln -s /dev/null /run/systemd/system/$unit.service
done
cp /zvb/bin/zvb@.service /zvb/bin/zvb@.socket /run/systemd/system/
mount --bind /zvb/bin/zvb /usr/bin/zvb
mount -t tmpfs none /var/lib/zvb
mount -t tmpfs none /etc/default
export SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0
systemd-analyze verify --man=no /run/systemd/system/zvb@disk.{service,socket}

# systemd as the first process of a world of its own, with control groups of its own.
cat >/tmp/boot <<'EOF2'
mount -t proc proc /proc
mount -t cgroup2 none /sys/fs/cgroup
export container=zvb TERM=dumb
exec /usr/lib/systemd/systemd --system --unit=basic.target --log-target=console --log-level=warning --show-status=no
EOF2
unshare --pid --mount --cgroup --fork --kill-child bash /tmp/boot &
outer=$!
for ((tries = 0; tries < 600; tries++)); do
    read -r first <"/proc/$outer/task/$outer/children" || true
    [ -z "${first-}" ] || break
    sleep 0.1
done
within() { nsenter --target "$first" --pid --mount --cgroup --root -- "$@"; }
for ((tries = 0; tries < 300; tries++)); do
    state=$(within systemctl is-system-running 2>&1 || true)
    case $state in running | degraded) break ;; esac
    sleep 0.2
done
echo "systemd: $state"
case $state in running | degraded) ;; *) exit 1 ;; esac

is() { equal "the $1" "$(within systemctl show --property "$2" --value "zvb@disk.$1")" "$3"; }
client() { within zvb "$@" --socket-path /run/zvb/disk.sock; }
head -c 1M /dev/urandom >/tmp/data
within zvb create /var/lib/zvb/disk.zvb --size 64M --zone-size 4M --quiet
within systemctl start zvb@disk.socket
equal "the socket's mode" "$(stat -c '%F %a' /run/zvb/disk.sock)" "socket 660"
is service ActiveState inactive
# The first who connects starts it; it is active only once it has said that it is ready.
client append /tmp/data --zone 3 --quiet
is service ActiveState active
is service NotifyAccess main
first_process=$(within systemctl show --property MainPID --value zvb@disk.service)

# Killed, it is started again, at the same socket, with all that was acknowledged.
within kill -KILL "$first_process"
client read --zone 3 --length 2048 --quiet >/tmp/back
cmp /tmp/data /tmp/back
is service NRestarts 1
[ "$first_process" != "$(within systemctl show --property MainPID --value zvb@disk.service)" ]

# Stopped, it ends in order, and the next client has another.
within systemctl stop zvb@disk.service
is service ActiveState inactive
is service Result success
is socket ActiveState active
within zvb check /var/lib/zvb/disk.zvb >/tmp/check || { cat /tmp/check; exit 1; }
client read --zone 3 --length 2048 --quiet | cmp - /tmp/data

# Options and another disk from /etc/default.
within systemctl stop zvb@disk.service
echo 'ZVB_OPTIONS="--queues 3 --read-only"' >/etc/default/zvb-disk
fails client append /tmp/data --zone 4 --quiet
says "the disk is read-only"
within systemctl stop zvb@disk.service zvb@disk.socket
echo 'ZVB_DISK=mem:48M' >/etc/default/zvb-disk
within systemctl start zvb@disk.socket
equal "the disk" "$(client id)" zvb-memory
within systemctl stop zvb@disk.service zvb@disk.socket

# A disk that is not there: tried a few times, and given up.
echo 'ZVB_DISK=/var/lib/zvb/nothing.zvb' >/etc/default/zvb-disk
fails within systemctl start zvb@disk.service
for ((tries = 0; tries < 300; tries++)); do
    [ "$(within systemctl is-active zvb@disk.service)" != activating ] || { sleep 0.2; continue; }
    break
done
is service ActiveState failed
kill -KILL "$first"
wait "$outer" || true
EOS
}
