#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Gives every vif of this guest its address: 10.NET.HANDLE.NUMBER, where NUMBER is the guest's and
# NET its driver domain's, or 0.
number=$(sed -n 's/.*lab\.number=\([0-9]*\).*/\1/p' /proc/cmdline)
net=$(sed -n 's/.*lab\.net=\([0-9]*\).*/\1/p' /proc/cmdline)
for device in /sys/class/net/*; do
	node=$(cat "$device/device/nodename" 2>/dev/null) || continue
	name=${device##*/}
	handle=${node##*/}
	ip link set "$name" up
	ip addr replace "10.${net:-0}.$handle.$number/24" dev "$name"
	ip addr replace "fd00:0:${net:-0}:$handle::$number/64" dev "$name" nodad
	# A driver domain passes on what is for others.
	[ -z "$net" ] || [ "$handle" != 0 ] || ip route replace default via "10.$net.0.1" dev "$name"
done
