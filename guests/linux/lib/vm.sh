# A guest with the disks of its scenarios: their servers, QEMU, and a line to the agent inside.
#
# A disk is known by SCENARIO.NAME. Its image, socket, log and process lie in $work under that name.

# Start and slots of the PCI functions of the disks: those below are the root disk's and QEMU's own.
first_slot=4
last_slot=30

declare -A disk_options serve_options disk_slot server_pid
disks=()
qemu_pid=

# disk NAME [OPTION...]: in a scenario's file, a disk that it wants, as `zvb create` takes it. NAME is a
# variable with its device node for `inside`.
disk() {
    local key=$id.$1
    [ -z "${disk_options[$key]+known}" ] || return 0
    disk_options[$key]="${*:2}"
    disk_slot[$key]=$((first_slot + ${#disks[@]}))
    [ "${disk_slot[$key]}" -le "$last_slot" ] || die "too many disks in one guest"
    disks+=("$key")
}

# served NAME OPTION...: in a scenario's file, how `zvb serve` serves that disk.
served() { serve_options[$id.$1]="${*:2}"; }

# zns_disk: in the file of a scenario with a guest of its own, NVMe disks with zones that QEMU has: /dev/nvme0n1,
# 64 MiB in zones of 4 MiB, of which 3 may be open and 4 active; /dev/nvme0n2, the same in blocks of 4 KiB.
zns=
zns_disk() { zns=yes; }

# needs_in_guest FILE...: programs of the host that a scenario wants in the guest's PATH.
needs_in_guest() {
    local file
    for file in "$@"; do
        case " ${guest_files[*]-} " in *" $file "*) ;; *) guest_files+=("$file") ;; esac
    done
}

# Of a disk of this scenario.
image() { echo "$work/$id.$1.zvb"; }
socket() { echo "$work/$id.$1.sock"; }
control_socket() { echo "$work/$id.$1.control"; }

# statistics NAME: what the server of a disk of this scenario says that it was asked for.
statistics() { "$zvb" ctl --control "$(control_socket "$1")" stats; }

# answered NAME KIND, with_errors NAME KIND: how many requests of this kind the server has answered, and how many of
# these with an error.
answered() { statistics "$1" | awk -v kind="$2" '$1 ~ /^[0-9]+$/ && $2 == kind { n += $3 } END { print n + 0 }'; }
with_errors() { statistics "$1" | awk -v kind="$2" '$1 ~ /^[0-9]+$/ && $2 == kind { n += $4 } END { print n + 0 }'; }

# requests NAME: the same in one line, as "3 appends, 12 writes".
requests() {
    statistics "$1" | awk '
        $1 ~ /^[0-9]+$/ && ($2 == "append" || $2 == "write") { n[$2] += $3 }
        END { printf "%d appends, %d writes\n", n["append"], n["write"] }'
}

make_disk() {
    # shellcheck disable=SC2086 # options are words
    "$zvb" create "$work/$1.zvb" --force --quiet ${disk_options[$1]}
}

# unseen NAME: in a scenario's file, a disk that Linux is to refuse. Every other one that is host-managed has a report.
unseen_disks=
unseen() { unseen_disks+=" $id.$1 "; }

# In the background: runs until this shell ends, at the latest.
tied() { exec setpriv --pdeathsig KILL -- "$@"; }

# serve KEY
serve() {
    local tries
    rm -f "$work/$1.serving"
    # shellcheck disable=SC2086 # options are words
    tied "$zvb" serve "$work/$1.zvb" --socket-path "$work/$1.sock" --queues "$vcpus" \
        --control "$work/$1.control" ${serve_options[$1]-} >"$work/$1.serving" 2>>"$work/$1.log" </dev/null &
    server_pid[$1]=$!
    for ((tries = 0; tries < 1200; tries++)); do
        if [ -s "$work/$1.serving" ]; then return; fi
        kill -0 "${server_pid[$1]}" 2>/dev/null || break
        sleep 0.05
    done
    echo "the server of $1 did not start:"
    cat "$work/$1.log"
    return 1
}

# server_kill NAME, server_start NAME: of a disk of this scenario.
server_kill() {
    kill -KILL "${server_pid[$id.$1]}"
    wait "${server_pid[$id.$1]}" 2>/dev/null || true
}
server_start() { serve "$id.$1"; }

vm_start() {
    local key number=0 arguments=()
    for key in "${disks[@]}"; do
        [ -e "$work/$key.zvb" ] || make_disk "$key"
        [ -n "${server_pid[$key]-}" ] && kill -0 "${server_pid[$key]}" 2>/dev/null || serve "$key"
        number=$((number + 1))
        arguments+=(
            -chardev "socket,id=c$number,path=$work/$key.sock"
            -device "vhost-user-test-device-pci,chardev=c$number,virtio-id=2,num_vqs=$vcpus,vq_size=256,config_size=96,addr=$(printf '%x' "${disk_slot[$key]}")"
        )
    done
    if [ -n "$zns" ]; then
        local block zoned=zoned=true,zoned.zone_size=4M,zoned.max_open=3,zoned.max_active=4
        arguments+=(-device nvme,id=nvme0,serial=zns)
        for block in 512 4096; do
            truncate -s 64M "$work/zns.$block"
            arguments+=(
                -drive "if=none,id=zns$block,file=$work/zns.$block,format=raw"
                -device "nvme-ns,bus=nvme0,drive=zns$block,$zoned,logical_block_size=$block,physical_block_size=$block"
            )
        done
    fi
    rm -f "$work"/agent.{in,out}
    mkfifo "$work"/agent.{in,out}
    exec 5<>"$work/agent.in" 6<>"$work/agent.out"
    boots=$((boots + 1))
    tied "$parts/vmm/usr/lib64/ld-linux-x86-64.so.2" --library-path "$parts/vmm/usr/lib/x86_64-linux-gnu" \
        "$parts/vmm/usr/bin/qemu-system-x86_64" \
        -L "$parts/vmm/usr/share/qemu" -L "$parts/vmm/usr/share/seabios" \
        -nodefaults -no-user-config -display none -no-reboot \
        -accel tcg,thread=multi -cpu max -smp "$vcpus" -m 1G \
        -object memory-backend-memfd,id=memory,size=1G,share=on -machine q35,memory-backend=memory \
        -kernel "$parts/linux-$kernel/vmlinuz" -initrd "$work/initrd" \
        -append "console=ttyS0 panic=-1 random.trust_cpu=on mitigations=off rcupdate.rcu_cpu_stall_suppress=1" \
        -serial "file:$work/console.$boots.log" \
        -chardev "pipe,id=agent,path=$work/agent" -serial chardev:agent \
        -drive "if=none,id=root,file=$parts/root.ext4,format=raw,readonly=on,file.locking=off" \
        -device virtio-blk-pci,drive=root,serial=guestroot,addr=2 \
        "${arguments[@]}" >"$work/qemu.log" 2>&1 </dev/null &
    qemu_pid=$!
    answer 240 >"$work/said" || {
        echo "the guest did not start:"
        cat "$work/said" "$work/qemu.log"
        # What QEMU ended with, if it did.
        vm_runs || { wait "$qemu_pid" && echo "QEMU ended" || echo "QEMU ended with $?"; }
        return 1
    }
}

vm_runs() { [ -n "$qemu_pid" ] && kill -0 "$qemu_pid" 2>/dev/null; }

# answer SECONDS: prints what the agent says until it says how that ended, and ends so too.
answer() {
    local line part= blank= end=$((SECONDS + $1))
    while [ $SECONDS -lt $end ]; do
        if ! IFS= read -r -t 1 line <&6; then
            # A slow guest may take longer than that for a line.
            part+=$line
            vm_runs || { echo "the guest is gone"; return 125; }
            continue
        fi
        line=$part$line part=
        case $line in
            ready) return 0 ;;
            "=== "*) return "${line#=== }" ;;
            # The last line break may be the agent's.
            "") blank+=$'\n' ;;
            *) printf '%s%s\n' "$blank" "$line"; blank= ;;
        esac
    done
    echo "the guest did not answer within $1 seconds"
    return 124
}

# inside [SECONDS]: runs the script on standard input in the guest, with the functions of guest/lib.sh, and
# the device nodes of the scenario's disks in variables. Prints what it says; ends as it does.
inside() {
    local key script=
    vm_runs || { echo "the guest does not run"; return 125; }
    script+="vcpus=$vcpus kernel=$kernel; . /zvb/lib.sh"$'\n'
    for key in "${disks[@]}"; do
        [ "${key%.*}" = "$id" ] || continue
        script+="${key##*.}=\$(block_device $(printf '%02x' "${disk_slot[$key]}"))"$'\n'
    done
    script+=$(cat)
    printf '%s\n' "$(base64 -w0 <<<"$script")" >&5
    answer "${1:-300}"
}

# An orderly end of the guest, or one like a power failure's.
vm_stop() {
    local tries
    vm_runs || return 0
    printf '%s\n' "$(base64 -w0 <<<'sync; poweroff -f')" >&5
    for ((tries = 0; tries < 1200; tries++)); do
        vm_runs || break
        sleep 0.1
    done
    vm_runs && { echo "the guest does not go down"; vm_kill; return 1; }
    wait "$qemu_pid" || { echo "QEMU failed:"; cat "$work/qemu.log"; return 1; }
    qemu_pid=
}
vm_kill() {
    vm_runs || return 0
    kill -KILL "$qemu_pid"
    wait "$qemu_pid" 2>/dev/null || true
    qemu_pid=
}

# Everything of this guest, whatever its state.
vm_clean() {
    local pid
    exec 2>/dev/null
    for pid in $qemu_pid "${server_pid[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null
}

# What the guest says of the zones of this scenario's disks, for compare_reports.
take_reports() {
    local key
    for key in "${disks[@]}"; do
        [ "${key%.*}" = "$id" ] || continue
        inside >"$work/$key.inside" <<EOS
[ -n "\$${key##*.}" ] || exit 0
disk=\$${key##*.}
case \$(queue zoned) in host-managed) blkzone report \$disk ;; esac
EOS
        case " ${disk_options[$key]} " in
            *" --model host-managed "*) ;;
            *" --model "*) continue ;;
        esac
        case $unseen_disks in *" $key "*) continue ;; esac
        [ -s "$work/$key.inside" ] || { echo "$key: the guest has no report of its zones"; return 1; }
    done
}

# The same from outside, once the guest is gone: line by line.
compare_reports() {
    local key
    for key in "${disks[@]}"; do
        [ "${key%.*}" = "$id" ] && [ -s "$work/$key.inside" ] || continue
        "$zvb" report --socket-path "$work/$key.sock" --format blkzone >"$work/$key.outside"
        diff -u --label "inside: blkzone report" --label "outside: zvb report --format blkzone" \
            "$work/$key.inside" "$work/$key.outside"
    done
}

# One initial file system for a kernel: the first modules, and what this run brings along.
make_initrd() {
    local tree=$work/tree
    mkdir -p "$tree"/{dev,proc,sys,root,modules,zvb/bin}
    cp "$parts/busybox" "$tree/busybox"
    cp "$here/guest/init" "$tree/init"
    cp "$here/guest/agent" "$here/guest/lib.sh" "$tree/zvb/"
    [ ${#guest_files[@]} -eq 0 ] || cp -L "${guest_files[@]}" "$tree/zvb/bin/"
    cp "$parts/linux-$kernel/modules"/* "$tree/modules/"
    (cd "$tree" && find . | "$parts/busybox" cpio -o -H newc 2>/dev/null) >"$work/initrd"
    rm -rf "$tree"
}
