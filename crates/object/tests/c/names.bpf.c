// Names that are keywords elsewhere, and shapes that skeletons have to spell.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, int);
} new SEC(".maps"), match SEC(".maps");

struct point {
	int x, y;
};

int class = 1;
int self = 2;
struct point type = { 3, 4 };
struct {
	int fn;
	union {
		int crate;
		char bytes[8];
	};
	unsigned int loop : 3;
	unsigned int mut : 30;
} impl = { .fn = 5, .crate = 6, .loop = 7, .mut = 8 };
int (*virtual)(int) = 0;
int *pointers[3];
char flexible_like[0];
__int128 wide;
double real = 0.5;
enum color { RED, GREEN = 5, BLUE = -1 } color = GREEN;
_Bool yes = 1;
struct __attribute__((packed)) {
	char c;
	long l;
} packed = { 'p', 9 };
int in_dots SEC(".data.a.b") = 10;
static volatile int hidden = 11;
const volatile int r_const = 12;

SEC("xdp")
int delete(struct xdp_md *ctx)
{
	class += self + type.x + impl.fn + hidden + r_const + in_dots + color + yes + packed.l;
	real = real;
	return XDP_PASS;
}

SEC("xdp")
int loop(struct xdp_md *ctx)
{
	return XDP_DROP;
}
