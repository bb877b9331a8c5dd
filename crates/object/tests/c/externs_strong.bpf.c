// A kernel variable that the program cannot do without.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

extern const int needed_counter __ksym;

SEC("xdp")
int use(struct xdp_md *ctx)
{
	return needed_counter;
}
