# blkzone open, close, finish, reset; conditions and limits
disk disk --size 256M --zone-size 16M --zone-capacity 12M --conventional 1 --max-open 3 --max-active 5

scenario() {
    inside <<'EOS'
at() { echo "-o $(($1 * 32768)) -c ${2:-1} $disk"; }
equal "at first" "$(conditions 0 9)" "nw em em em em em em em em"

blkzone open $(at 1 3)
equal "three opened" "$(conditions 0 6)" "nw oe oe oe em em"
fails blkzone open $(at 4)
equal "a fourth is one too many" "$(conditions 0 6)" "nw oe oe oe em em"

# Without data, a closed zone is empty.
blkzone close $(at 1 2)
equal "closed without data" "$(conditions 0 6)" "nw em em oe em em"

# Written zones open implicitly, and the least recent one is closed for another.
write() { dd if=/dev/zero of="$disk" bs=4096 count=1 seek=$(($1 * 4096)) oflag=direct conv=notrunc status=none; }
write 1
write 2
equal "two written" "$(conditions 0 6)" "nw oi oi oe em em"
write 4
equal "a fourth open zone closes an implicitly open one" "$(conditions 0 6)" "nw cl oi oe oi em"
blkzone close $(at 2)
blkzone close $(at 4)
equal "closed with data" "$(conditions 0 6)" "nw cl cl oe cl em"
equal "pointer stays" "$(zone 2 wptr)" 8

# Active: three closed, one open, and one more.
write 5
equal "five active" "$(conditions 0 8)" "nw cl cl oe cl oi em em"
fails write 6
fails blkzone open $(at 6)
equal "a sixth active zone is one too many" "$(conditions 0 8)" "nw cl cl oe cl oi em em"

# A full zone is active no more.
blkzone finish $(at 1)
equal finished "$(conditions 0 8)" "nw fu cl oe cl oi em em"
equal "full: the pointer is at the end" "$(zone 1 wptr)" 32768
write 6
equal "room for another" "$(conditions 0 8)" "nw fu cl oe cl oi oi em"
fails write 1
fails blkzone open $(at 1)
blkzone finish $(at 7)
equal "an empty zone finished" "$(conditions 0 8)" "nw fu cl oe cl oi oi fu"

blkzone reset $(at 1)
blkzone reset $(at 3)
equal "reset" "$(conditions 0 8)" "nw em cl em cl oi oi fu"
equal "pointer is back" "$(zone 1 wptr)" 0

# Conventional zones take none of it.
for command in open close finish reset; do fails blkzone $command $(at 0); done

# Of the whole disk at once. Conventional zones are passed over.
blkzone reset "$disk"
equal "all reset" "$(conditions 0 16)" "nw em em em em em em em em em em em em em em em"

# What stays for the report from outside.
blkzone open $(at 1)
write 2
blkzone finish $(at 3)
write 4
blkzone close $(at 4)
EOS
    # Linux asked for that in one request, and the disk did it.
    [ "$(answered disk reset-all)" = 1 ] && [ "$(with_errors disk reset-all)" = 0 ] || { statistics disk; return 1; }
    # Limits, and a full zone: it is the disk that refuses. (Linux 7 does not ask it about conventional zones.)
    [ "$(with_errors disk open)" -ge 3 ] && [ "$(with_errors disk write)" = 2 ] || { statistics disk; return 1; }
}
