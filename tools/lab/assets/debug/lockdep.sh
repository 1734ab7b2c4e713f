# Faults of the kernel itself that its checks meet in a PV dom0, before the module is looked at.

# A task that was never switched away from is switched to: its lazy MMU mode was not paused.
sed -i '/^static inline void __task_lazy_mmu_mode_/,/^}/ { /VM_WARN_ON_ONCE/d }' \
	include/linux/pgtable.h

# A lock for each page table, too large for struct page, is where PV keeps the user's page table.
sed -i '/^config SPLIT_PTE_PTLOCKS/,/^$/ s/NR_CPUS >= 4/NR_CPUS >= 4096/' mm/Kconfig

# gntdev writes to its caller's memory under a lock that mmap() takes under the memory's own.
sed -i '/^static long gntdev_ioctl_map_grant_ref/,/^}/ {
	/^\tmutex_unlock(&priv->lock);$/d
	s/^\tif (copy_to_user(u, &op.*/\tmutex_unlock(\&priv->lock);\n&\n\t\tmutex_lock(\&priv->lock);/
}' drivers/xen/gntdev.c

grep -A6 '^static inline void __task_lazy_mmu_mode_' include/linux/pgtable.h | grep VM_WARN && exit 1
grep -q 'NR_CPUS >= 4096' mm/Kconfig
grep -A1 '^	mutex_unlock(&priv->lock);$' drivers/xen/gntdev.c | grep -q copy_to_user
