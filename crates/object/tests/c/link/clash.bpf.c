// What does not fit the others: each with a macro.
#include "shared.h"

#ifdef LICENCE
char LICENSE[] SEC("license") = "Proprietary";
#else
char LICENSE[] SEC("license") = "GPL";
#endif

#ifdef TWICE
int lib_counter = 1;
#endif
#ifdef OTHER_TYPE
extern __u64 lib_counter;
#endif
#ifdef OTHER_MAP
extern struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct limits);
} shared_map SEC(".maps");
#endif
#ifdef OTHER_FUNC
extern int add(int a, __u64 b);
#endif
#ifdef OTHER_KIND
extern int add;
#endif

SEC("xdp")
int clash(struct xdp_md *ctx)
{
	__u32 key = 0;
#if defined(OTHER_TYPE) || defined(TWICE)
	return lib_counter;
#elif defined(OTHER_MAP)
	return bpf_map_lookup_elem(&shared_map, &key) != 0;
#elif defined(OTHER_FUNC)
	return add(1, 2);
#elif defined(OTHER_KIND)
	return add;
#endif
	return key;
}
