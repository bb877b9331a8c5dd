/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Any light skeleton: SKELETON is its header, PREFIX its prefix. Loads it twice and says what it loaded. */
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf.h>

#include "check.h"
#include SKELETON

#define PASTE_(prefix, name) prefix##name
#define PASTE(prefix, name) PASTE_(prefix, name)
#define OF_SKELETON(name) PASTE(PREFIX, name)

static void say(const struct bpf_map_desc *maps, size_t map_count, const struct bpf_prog_desc *progs, size_t prog_count)
{
	for (size_t at = 0; at < map_count; at++) {
		struct bpf_map_info info;
		__u32 len = sizeof(info);

		memset(&info, 0, sizeof(info));
		SAME(bpf_map_get_info_by_fd(maps[at].map_fd, &info, &len), 0);
		printf("map %s type %u key %u value %u entries %u flags %#x\n", info.name, info.type, info.key_size,
		       info.value_size, info.max_entries, info.map_flags);
	}
	for (size_t at = 0; at < prog_count; at++) {
		struct bpf_prog_info info;
		__u32 len = sizeof(info);

		memset(&info, 0, sizeof(info));
		SAME(bpf_prog_get_info_by_fd(progs[at].prog_fd, &info, &len), 0);
		printf("program %s type %u\n", info.name, info.type);
	}
}

int main(void)
{
	struct PREFIX *skel = OF_SKELETON(__open_and_load)();
	int before;

	CHECK(skel);
	SAME(OF_SKELETON(__attach)(skel), 0);
	say((const struct bpf_map_desc *)&skel->maps, sizeof(skel->maps) / sizeof(struct bpf_map_desc),
	    (const struct bpf_prog_desc *)&skel->progs, sizeof(skel->progs) / sizeof(struct bpf_prog_desc));
	OF_SKELETON(__detach)(skel);
	OF_SKELETON(__destroy)(skel);
	before = open_files();
	skel = OF_SKELETON(__open_and_load)();
	CHECK(skel);
	OF_SKELETON(__destroy)(skel);
	SAME(open_files(), before);
	return 0;
}
