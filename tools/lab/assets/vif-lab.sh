#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Hotplug script of the lab's vifs: puts them on their bridge and says so to the backend. As few
# processes as can be: the toolstack waits for fifty of these, and not for long.
case "$1" in
online)
	bridge=br0
	mtu=
	while read -r key equals value; do
		value=${value#\"}
		case $key in
		bridge) bridge=${value%\"} ;;
		mtu) mtu="mtu ${value%\"}" ;;
		esac
	done <<-END
		$(xenstore-ls "$XENBUS_PATH")
	END
	ip link set "$vif" $mtu master "$bridge" up &&
		xenstore-write "$XENBUS_PATH/hotplug-status" connected ||
		xenstore-write "$XENBUS_PATH/hotplug-status" error
	;;
offline)
	ip link set "$vif" nomaster down 2>/dev/null
	xenstore-rm "$XENBUS_PATH/hotplug-status" 2>/dev/null
	;;
esac
exit 0
