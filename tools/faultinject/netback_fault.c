// SPDX-License-Identifier: GPL-2.0
/*
 * Makes one call that netback makes fail, for the lab's tests of what happens
 * then. Debian's kernel has kprobes, but nothing of the kernel's own fault
 * injection, and the module under test shall be the one that is shipped.
 *
 * One file, /sys/kernel/debug/netback-fault, is written to and read from:
 *
 *	instead FUNCTION N VALUE TASK
 *		The Nth call of FUNCTION with netback among its nearest callers,
 *		made by a task of this name, returns VALUE and is not carried out.
 *	after FUNCTION N VALUE TASK
 *		The same, but carried out.
 *	off
 *		Nothing fails any more.
 *
 * FUNCTION has to be one that ftrace traces. Reading tells how many calls there
 * were, whether one has failed, and who made that one.
 */

#include <linux/debugfs.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/linkage.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/objtool.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <linux/uaccess.h>

/* How many callers may stand between the function and netback. */
#define NEAR 5

/* A return, and nothing else: where a call goes that is not carried out. */
asm(".pushsection .text\n"
    ".type netback_fault_return, @function\n"
    "netback_fault_return:\n"
    ANNOTATE_NOENDBR "\n"
    ASM_RET "\n"
    ".size netback_fault_return, . - netback_fault_return\n"
    ".popsection\n");
void netback_fault_return(void);

/* What is to fail. Changed while no probe is set only. */
static struct {
	char function[KSYM_NAME_LEN];
	char task[TASK_COMM_LEN];
	unsigned int nth;
	long value;
} wanted;

/* What has been seen; under the lock. */
static DEFINE_RAW_SPINLOCK(lock);
static unsigned int calls;
static bool failed;
static char who[2 * KSYM_SYMBOL_LEN];
static char symbol[KSYM_SYMBOL_LEN];

/* Serialises whoever uses the file. */
static DEFINE_MUTEX(control);
static enum { OFF, INSTEAD, AFTER } armed;

/*
 * Whether netback is among the nearest callers of the probed function; notes who
 * that is. The stack begins with what leads from the function to here.
 */
static bool by_netback(void)
{
	unsigned long stack[32];
	unsigned int i, depth;
	int callers = -1;

	depth = stack_trace_save(stack, ARRAY_SIZE(stack), 0);
	for (i = 0; i < depth && callers < NEAR; i++) {
		sprint_symbol_no_offset(symbol, stack[i]);
		if (callers < 0) {
			if (!strcmp(symbol, wanted.function))
				callers = 0;
			continue;
		}
		callers++;
		if (strstr(symbol, "[netback]")) {
			strscpy(who, symbol);
			return true;
		}
	}
	return false;
}

/* Rust frees memory by making it nothing: that must not fail. */
static bool is_free(struct pt_regs *regs)
{
	return !strncmp(wanted.function, "krealloc", 8) &&
	       !regs_get_kernel_argument(regs, 1);
}

/* Whether this call is the one. */
static bool is_the_one(struct pt_regs *regs)
{
	bool is = false;

	if (is_free(regs) || !in_task() ||
	    strcmp(current->comm, wanted.task))
		return false;
	raw_spin_lock(&lock);
	if (!failed && by_netback()) {
		is = ++calls == wanted.nth;
		failed |= is;
	}
	raw_spin_unlock(&lock);
	return is;
}

static int before_call(struct kprobe *probe, struct pt_regs *regs)
{
	if (!is_the_one(regs))
		return 0;
	regs_set_return_value(regs, wanted.value);
	instruction_pointer_set(regs, (unsigned long)netback_fault_return);
	return 1;
}

/* A probe that has this may send the caller elsewhere. */
static void after_step(struct kprobe *probe, struct pt_regs *regs,
		       unsigned long flags)
{
}

static int enter(struct kretprobe_instance *call, struct pt_regs *regs)
{
	return !is_the_one(regs);
}

static int leave(struct kretprobe_instance *call, struct pt_regs *regs)
{
	regs_set_return_value(regs, wanted.value);
	return 0;
}

static struct kprobe instead;
static struct kretprobe after;

static void disarm(void)
{
	if (armed == INSTEAD)
		unregister_kprobe(&instead);
	else if (armed == AFTER)
		unregister_kretprobe(&after);
	armed = OFF;
}

static int arm(bool carried_out)
{
	int ret;

	calls = 0;
	failed = false;
	who[0] = '\0';
	if (carried_out) {
		after = (struct kretprobe) {
			.kp.symbol_name = wanted.function,
			.entry_handler = enter,
			.handler = leave,
			.maxactive = 64,
		};
		ret = register_kretprobe(&after);
	} else {
		instead = (struct kprobe) {
			.symbol_name = wanted.function,
			.pre_handler = before_call,
			.post_handler = after_step,
		};
		ret = register_kprobe(&instead);
	}
	if (ret)
		return ret;
	armed = carried_out ? AFTER : INSTEAD;
	/* A probe that is a breakpoint is hit as if by an NMI. */
	if (!kprobe_ftrace(carried_out ? &after.kp : &instead)) {
		disarm();
		return -EOPNOTSUPP;
	}
	return 0;
}

static ssize_t fault_write(struct file *file, const char __user *from,
			   size_t count, loff_t *pos)
{
	char line[2 * KSYM_NAME_LEN], how[8];
	ssize_t ret = count;
	int err;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, count))
		return -EFAULT;
	line[count] = '\0';

	mutex_lock(&control);
	disarm();
	if (!strncmp(line, "off", 3))
		goto out;
	/* The widths are those of the buffers. */
	BUILD_BUG_ON(sizeof(wanted.function) != 512 || sizeof(wanted.task) != 16);
	if (sscanf(line, "%7s %511s %u %li %15s", how, wanted.function,
		   &wanted.nth, &wanted.value, wanted.task) != 5 ||
	    (strcmp(how, "instead") && strcmp(how, "after"))) {
		ret = -EINVAL;
		goto out;
	}
	err = arm(!strcmp(how, "after"));
	if (err)
		ret = err;
out:
	mutex_unlock(&control);
	return ret;
}

static ssize_t fault_read(struct file *file, char __user *to, size_t count,
			  loff_t *pos)
{
	char line[sizeof(who) + 32];
	unsigned long flags;
	int len;

	raw_spin_lock_irqsave(&lock, flags);
	len = scnprintf(line, sizeof(line), "%u %d %s\n", calls, failed, who);
	raw_spin_unlock_irqrestore(&lock, flags);
	return simple_read_from_buffer(to, count, pos, line, len);
}

static const struct file_operations fault_fops = {
	.owner = THIS_MODULE,
	.write = fault_write,
	.read = fault_read,
	.llseek = default_llseek,
};

static struct dentry *entry;

static int __init fault_init(void)
{
	entry = debugfs_create_file("netback-fault", 0600, NULL, NULL,
				    &fault_fops);
	return PTR_ERR_OR_ZERO(entry);
}

static void __exit fault_exit(void)
{
	debugfs_remove(entry);
	disarm();
}

module_init(fault_init);
module_exit(fault_exit);
MODULE_DESCRIPTION("Makes calls of netback fail, for tests");
MODULE_LICENSE("GPL");
