#!/bin/busybox sh
# The guest's first process: makes a root of the host's files and memory, runs the host's program in it, and turns the machine off.
# Whatever ends without a parent becomes its child, and is reaped while it waits.
say() { /bin/busybox echo "bailiff: $*" >/dev/kmsg; }
if [ "$1" != again ]; then
    B=/bin/busybox
    $B mount -t devtmpfs dev /dev && $B mount -t proc proc /proc && $B mount -t sysfs sys /sys
    for module in /modules/*; do
        $B insmod "$module" || say "$module can't be loaded"
    done
    { read -r modules; read -r program; read -r job; } </names
    $B mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000,access=any host /host || say "no files of the host"
    $B mount -t tmpfs -o mode=0755,size=75% changes /changes && $B mkdir /changes/upper /changes/work
    $B mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work root /root || say "no root"
    for place in dev proc sys; do
        $B mount -o move "/$place" "/root/$place"
    done
    $B mount -t tmpfs -o mode=0755 run /root/run
    $B mount -t tmpfs -o mode=1777 tmp /root/tmp
    $B mkdir -p "/root/lib/modules/$($B uname -r)"
    $B mount -o bind "/host$modules" "/root/lib/modules/$($B uname -r)" || say "no modules"
    $B cp /init /bin/busybox /root/run/
    exec $B switch_root /root /run/busybox sh /run/init again "$program" "$job"
fi
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
"$2" guest "$3" >/dev/console 2>&1 || /run/busybox echo "bailiff: the guest's program failed" >/dev/kmsg
/run/busybox poweroff -f
