# fio on zones: sequential, random, several jobs, verified
disk disk --size 192M --zone-size 4M --zone-capacity 3M --conventional 2 --max-open 6

scenario() {
    inside 600 <<'EOS'
# job NAME OPTION...: on the sequential zones, around the page cache, what was written is read back and compared.
first=$((2 * 4 << 20))
job() {
    fio --name="$1" --filename="$disk" --zonemode=zbd --direct=1 --offset=$first \
        --verify=crc32c --do_verify=1 --verify_fatal=1 --minimal "${@:2}" >/tmp/fio 2>&1 || {
        echo "fio $*"
        cat /tmp/fio
        dmesg | tail -5
        exit 1
    }
}
clean() { blkzone reset -o $((first / 512)) "$disk"; }

job sequential --rw=write --bs=64k --size=40M --ioengine=io_uring --iodepth=4
equal "thirteen zones full" "$(conditions 2 14)" "fu fu fu fu fu fu fu fu fu fu em em em em"
clean
job random --rw=randwrite --bs=4k-32k --bsrange=4k-32k --size=40M --io_size=8M --max_open_zones=5 \
    --ioengine=io_uring --iodepth=8
clean
job "several jobs" --rw=randwrite --bs=16k --size=24M --io_size=4M --offset_increment=24M --numjobs=3 \
    --job_max_open_zones=2 --ioengine=io_uring --iodepth=4 --group_reporting
clean
job "several jobs, one after the other zone" --rw=write --bs=128k --size=12M --offset_increment=12M --numjobs=4 \
    --job_max_open_zones=1 --ioengine=psync --group_reporting
job "reads of what is there" --rw=randread --bs=4k --size=48M --io_size=4M --ioengine=io_uring --iodepth=16 --verify=0
EOS
}
