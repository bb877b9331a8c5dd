// Compiled without -g: no BTF at all.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

volatile int counter = 4;
static volatile int zeroed;

SEC("xdp")
int use(struct xdp_md *ctx)
{
	counter++;
	return zeroed + XDP_PASS;
}
