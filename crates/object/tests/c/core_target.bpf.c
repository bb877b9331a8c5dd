// The same types as in core.bpf.c, laid out otherwise: what its relocations are resolved against.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

enum state { STATE_NEW = 1, STATE_A = 2, STATE_B = 9 };
enum wide { WIDE = 0x7777777777ULL };

struct inner {
	long inserted;
	int y;
	int x;
};

struct outer {
	struct inner *ptr;
	struct {
		struct inner in[6];
	};
	__u64 first;
	struct {
		union {
			__u64 u;
			struct {
				__u16 before;
				__s16 hi;
				__u16 lo;
			};
		};
	};
	unsigned int other : 9;
	unsigned int flag : 4;
	int signed_flag : 6;
};

typedef struct inner inner_t;

/* A second type of the same name with another layout, as two files of a kernel may have. */
struct twice {
	int a;
	int b;
};

struct outer outer __attribute__((weak));
enum state state __attribute__((weak));
enum wide wide __attribute__((weak));
inner_t other_inner __attribute__((weak));
struct twice twice __attribute__((weak));
