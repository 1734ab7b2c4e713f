#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Hotplug script of the lab's vifs: puts them on their bridge and says so to the backend.
case "$1" in
online)
	bridge=$(xenstore-read "$XENBUS_PATH/bridge" 2>/dev/null) || bridge=br0
	mtu=$(xenstore-read "$XENBUS_PATH/mtu" 2>/dev/null) && ip link set "$vif" mtu "$mtu"
	ip link set "$vif" master "$bridge" &&
		ip link set "$vif" up &&
		xenstore-write "$XENBUS_PATH/hotplug-status" connected ||
		xenstore-write "$XENBUS_PATH/hotplug-status" error
	;;
offline)
	ip link set "$vif" nomaster down 2>/dev/null
	xenstore-rm "$XENBUS_PATH/hotplug-status" 2>/dev/null
	;;
esac
exit 0
