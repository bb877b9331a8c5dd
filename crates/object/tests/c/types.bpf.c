// Types of every kind and shape, for the C and raw dumps.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define __tag(x) __attribute__((btf_decl_tag(x)))
#define __type_tag(x) __attribute__((btf_type_tag(x)))

struct forward;
union forward_union;
struct list {
	struct list *next, **pprev;
	struct forward *opaque;
	union forward_union *opaque_union;
};

enum small { SMALL_A, SMALL_B = -3 };
enum large { LARGE = 0x8000000000000001ULL, LARGER };
enum unsigned_enum { U_MAX = 0xffffffff };

typedef int (*callback_t)(struct list *list, const char *name, ...);
typedef callback_t (*factory_t)(void);
typedef struct {
	int anonymous;
} anon_t;
typedef int matrix_t[3][5];

struct packed {
	char c;
	__u64 wide;
	__u16 half;
} __attribute__((packed));

struct aligned {
	char c;
	int i __attribute__((aligned(32)));
	char tail;
};

struct bits {
	unsigned int a : 3;
	unsigned int b : 30;
	__u64 c : 40;
	int : 0;
	signed char d : 2;
	_Bool e : 1;
	enum small f : 4;
	__u16 plain;
	unsigned int last : 1;
};

struct packed_bits {
	char c;
	unsigned int a : 7;
	unsigned int b : 30;
} __attribute__((packed));

struct everything {
	struct bits bits;
	struct packed packed;
	struct packed_bits packed_bits;
	struct aligned aligned[2];
	union {
		int in_union;
		struct {
			short x, y;
		};
		struct {
			char deep[3];
		} named;
	};
	enum { ANON_ONE = 1, ANON_TWO } anonymous_enum;
	enum large large;
	enum unsigned_enum u;
	const volatile char *const volatile qualified;
	int *restrict restricted;
	int (*array_of_functions[4])(int, const struct list *);
	int (*pointer_to_array)[7];
	factory_t factory;
	matrix_t matrix;
	anon_t anon;
	float single;
	double twice;
	__int128 huge;
	int __type_tag("user") *tagged __tag("member");
	struct list list;
	char flexible[];
};

struct empty {
};

__u64 tagged_variable __tag("variable");
struct everything everything __attribute__((weak));
struct empty empty_variable __attribute__((weak));
typedef __u32 tagged_typedef __tag("typedef");
tagged_typedef of_tagged;

__noinline int tagged_argument(int x __tag("argument"))
{
	volatile int y = x;
	return y;
}

SEC("xdp")
int use(struct xdp_md *ctx)
{
	everything.list.next = 0;
	everything.restricted = 0;
	return tagged_argument(ctx->rx_queue_index) + (int)tagged_variable + of_tagged + sizeof(empty_variable);
}
