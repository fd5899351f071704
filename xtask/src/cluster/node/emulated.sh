#!/bin/bash
# A node in a machine of its own: loads the modules that distributions load for containers, makes the network and the file systems,
# and runs what a node runs until one of it ends. It is started among the host's files, of which STATE is the node's folder; NAME is its name, ADDRESS and
# GATEWAY are the two ends of its wire, IMAGES the archives to import, one a line, PROGRAMS the folder of kubelet, KUBECONFIG kubelet's own.
set -eu

# Emulated, what is loaded by itself upon the first use comes too late for those who don't wait.
for module in virtio_net overlay bridge br_netfilter veth nf_tables nf_conntrack nft_ct nft_nat nft_compat xt_conntrack xt_comment; do
    modprobe "$module" || echo "$module can't be loaded"
done

hostname "$NAME"
ip addr add "$ADDRESS/30" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
echo 1 >/proc/sys/net/ipv4/ip_forward
# What goes from a pod to a Service and back to a pod of the same bridge is translated, too.
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

# Layers of containers can't lie on an overlay, which is what all else of this machine lies on.
for folder in /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/log; do
    mkdir -p "$folder"
    mount -t tmpfs -o mode=0755 tmpfs "$folder"
done
mkdir -p /run/lock /run/netns

# As systemd has it: services beside the pods, and nothing in the root.
mkdir -p /sys/fs/cgroup/system
echo 0 >/sys/fs/cgroup/system/cgroup.procs

# Each says on every line who speaks.
speak() { "$@" 2>&1 | sed --unbuffered "s/^/$(basename "$1"): /"; }

speak containerd --config "$STATE/containerd.toml" &
until ctr version >/dev/null 2>&1; do
    sleep 0.5
    [ -n "$(jobs -r)" ] || exit 1
done
while read -r image; do
    [ -z "$image" ] || speak ctr -n k8s.io images import "$image" </dev/null
done <<LIST
$IMAGES
LIST
speak "$PROGRAMS/kubelet" --config="$STATE/kubelet.json" --kubeconfig="$KUBECONFIG" --hostname-override="$NAME" --node-ip="$ADDRESS" &
speak "$PROGRAMS/kube-proxy" --config="$STATE/kube-proxy.json" &
wait -n
echo "one of them has ended"
exit 1
