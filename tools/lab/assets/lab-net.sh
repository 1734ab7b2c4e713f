#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Gives every vif of this guest its address: 10.NET.HANDLE.NUMBER, where NUMBER is the guest's and
# NET its driver domain's, or 0. A process for each step would cost an emulated guest much time.
net=0
read -r cmdline < /proc/cmdline
for word in $cmdline; do
	case $word in
	lab.number=*) number=${word#*=} ;;
	lab.net=*) net=${word#*=} ;;
	esac
done
for device in /sys/class/net/*; do
	{ read -r node < "$device/device/nodename"; } 2>/dev/null || continue
	name=${device##*/}
	handle=${node##*/}
	route=
	# A driver domain passes on what is for others.
	[ "$net" = 0 ] || [ "$handle" != 0 ] || route="route replace default via 10.$net.0.1 dev $name"
	ip -force -batch - <<-END
		link set $name up
		addr replace 10.$net.$handle.$number/24 dev $name
		addr replace fd00:0:$net:$handle::$number/64 dev $name nodad
		$route
	END
done
