#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# First process of a driver domain of the lab: its own network, bridges for the vifs that it
# serves, the toolstack's daemon that runs hotplug scripts, then the agent.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/xen/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run /tmp /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
echo 0 > /sys/kernel/tracing/options/record-cmd
mkdir -p /run/lock /run/xen /var/lib/xen /var/log/xen
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
# Ports that tests listen on are below these.
echo 60000 60999 > /proc/sys/net/ipv4/ip_local_port_range
ip link set lo up
for module in xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs bridge xen-netfront; do
	modprobe "$module" || echo "lab: cannot load $module"
done
mount -t xenfs xenfs /proc/xen
lab-net
# The networks of those whose vifs are served here: 10.NUMBER.HANDLE.0.
number=$(sed -n 's/.*lab\.number=\([0-9]*\).*/\1/p' /proc/cmdline)
for n in 0 1 2 3; do
	ip link add "br$n" type bridge
	ip link set "br$n" up
	ip addr add "10.$number.$n.1/24" dev "br$n"
	ip addr add "fd00:0:$number:$n::1/64" dev "br$n" nodad
done
echo 1 > /proc/sys/net/ipv4/ip_forward
xl devd || echo "lab: xl devd failed"
echo "lab: starting the agent"
while :; do
	netback-agent guest
	sleep 1
done
