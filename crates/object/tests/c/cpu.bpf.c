// Compiled once for each -mcpu: what the instruction sets differ in.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __s64);
} values SEC(".maps");

static __noinline __u64 mix(__u64 a, __u32 b)
{
	if ((__s32)b < 3)
		a ^= b;
	return a * 31 + (b >> 7);
}

SEC("socket")
int use(struct __sk_buff *skb)
{
	__u32 key = 0;
	__s64 *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return 0;
	__sync_fetch_and_add(value, skb->len);
	if (*value > 10 && skb->len < 100u)
		*value = mix(*value, skb->len) % 7;
	return (int)*value;
}
