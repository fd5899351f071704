#!/bin/sh
# The first process of a node, in mount, network, uts, ipc and cgroup namespaces of its own. It makes the node's file systems and
# then only holds them: STATE is the node's folder, NAME its name, CONTROLLERS those of cgroups' first version.
set -eu
mount --make-rprivate /

# What containerd, kubelet and the CNI plugins write goes into the node's folder or is gone with the node, and the machine's own
# /run and /var stay untouched.
mkdir -p "$STATE/containerd" "$STATE/kubelet" "$STATE/cni"
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/netns /run/etc /run/sysctl
mkdir -p /run/state && mount --bind "$STATE" /run/state
mount -t tmpfs tmpfs /var
mkdir -p /var/lib /var/log /var/tmp /var/cache
for name in containerd kubelet cni; do
    mkdir "/var/lib/$name"
    mount --bind "/run/state/$name" "/var/lib/$name"
done

# sysfs of this network namespace, with cgroups seen from this cgroup namespace.
umount -R /sys
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /sys/fs/cgroup
for name in $CONTROLLERS; do
    mkdir "/sys/fs/cgroup/$name"
    case $name in
    systemd) mount -t cgroup -o none,name=systemd cgroup "/sys/fs/cgroup/$name" ;;
    *) mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" ;;
    esac
done
mkdir /sys/fs/cgroup/unified
mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing

# kubelet sets these for the whole machine; here it only believes so.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    name=${setting%%=*}
    mkdir -p "/run/sysctl/${name%/*}"
    echo "${setting##*=}" >"/run/sysctl/$name"
    mount --bind "/run/sysctl/$name" "/proc/sys/$name"
done

hostname "$NAME"
ip link set lo up
# The cloud's metadata server, where there is one, isn't the pods' business.
ip route add unreachable 169.254.169.254/32
echo 1 >/proc/sys/net/ipv4/ip_forward
mount --make-rshared /
: >"$STATE/ready"
exec sleep infinity
