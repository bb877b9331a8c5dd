// Configuration values and kernel symbols, strong and weak.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

extern int LINUX_KERNEL_VERSION __kconfig;
extern int CONFIG_HZ __kconfig __weak;
extern _Bool CONFIG_BPF_SYSCALL __kconfig __weak;
extern unsigned long CONFIG_PAGE_SHIFT __kconfig;

extern const void missing_symbol __ksym __weak;
extern const int missing_counter __ksym __weak;

extern int bpf_missing_kfunc(int x) __ksym __weak;
extern void bpf_rcu_read_lock(void) __ksym;
extern void bpf_rcu_read_unlock(void) __ksym;

SEC("xdp")
int use(struct xdp_md *ctx)
{
	int out = LINUX_KERNEL_VERSION + CONFIG_HZ + CONFIG_BPF_SYSCALL + (int)CONFIG_PAGE_SHIFT;

	if (&missing_symbol)
		out++;
	if (&missing_counter)
		out += missing_counter;
	if (bpf_missing_kfunc)
		out += bpf_missing_kfunc(out);
	bpf_rcu_read_lock();
	bpf_rcu_read_unlock();
	return out;
}
